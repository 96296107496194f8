// Uses a wallet with Alby's SDK as an app would: nwc.mjs URI PLAN, where PLAN is JSON:
//   encryption  nip44_v2 or nip04
//   invoice     somebody's, to be paid
//   payee       a Lightning node, to be paid without an invoice
//   hold        whether somebody outside can pay, so that a hold invoice can be held
// Prints a line of JSON for each step: { step, got }, where got may be { error }. Of a step "pay_me" the invoice in
// `got` is to be paid by whoever reads it.
import WebSocket from 'ws'
import { NWCClient } from '@getalby/sdk/nwc'

globalThis.WebSocket ??= WebSocket
// The SDK tells of every refusal, and here most are wanted.
console.error = () => {}
console.warn = () => {}

const [uri, planText] = process.argv.slice(2)
const plan = JSON.parse(planText)
const client = new NWCClient({ nostrWalletConnectUrl: uri })
client._encryptionType = plan.encryption

const say = (step, got) => process.stdout.write(JSON.stringify({ step, got }) + '\n')
const hex = bytes => Buffer.from(bytes).toString('hex')
const sha256 = async bytes => hex(await crypto.subtle.digest('SHA-256', bytes))

/** Tells what a call gives, or its error's code. */
const attempt = async (step, call) => {
  let got
  try {
    got = await call()
  } catch (error) {
    got = { error: error.code ?? error.name, message: error.message }
  }
  say(step, got)
  return got
}

const deadline = setTimeout(() => {
  say('late', {})
  process.exit(1)
}, 60_000)

const told = []
/** Waits for a notification. */
const heard = async (topic, hash) => {
  const isIt = one => one.notification_type === topic && one.notification.payment_hash === hash
  while (!told.some(isIt)) await new Promise(done => setTimeout(done, 10))
  return told.find(isIt)
}

await attempt('service', () => client.getWalletServiceInfo())
const unsubscribe = await client.subscribeNotifications(notification => told.push(notification))

await attempt('info', () => client.getInfo())
await attempt('balance', () => client.getBalance())
await attempt('budget', () => client.getBudget())

const metadata = { from: 'alby', comment: 'for tea' }
const made = await attempt('made', () => client.makeInvoice({ amount: 5000, description: 'tea', expiry: 600, metadata }))
await attempt('by_hash', () => client.lookupInvoice({ payment_hash: made.payment_hash }))
await attempt('by_invoice', () => client.lookupInvoice({ invoice: made.invoice }))
say('pay_me', made.invoice)
say('received', await heard('payment_received', made.payment_hash))
await attempt('received_looked_up', () => client.lookupInvoice({ payment_hash: made.payment_hash }))

await attempt('paid', () => client.payInvoice({ invoice: plan.invoice, metadata: { comment: 'thanks' } }))
await attempt('paid_again', () => client.payInvoice({ invoice: plan.invoice }))
const sent = await attempt('paid_looked_up', () => client.lookupInvoice({ invoice: plan.invoice }))
say('sent', await heard('payment_sent', sent.payment_hash))

const keysend = { amount: 1000, pubkey: plan.payee, tlv_records: [{ type: 7629169, value: '0123' }] }
await attempt('keysend', () => client.payKeysend(keysend))

const preimage = crypto.getRandomValues(new Uint8Array(32))
const payment_hash = await sha256(preimage)
const hold = await attempt('hold', () => client.makeHoldInvoice({ amount: 7000, description: 'held', payment_hash }))
await attempt('settled_too_early', () => client.settleHoldInvoice({ preimage: hex(preimage) }))
if (plan.hold) {
  say('pay_me', hold.invoice)
  say('accepted', await heard('hold_invoice_accepted', payment_hash))
  await attempt('held_looked_up', () => client.lookupInvoice({ payment_hash }))
  await attempt('settled', () => client.settleHoldInvoice({ preimage: hex(preimage) }))
  say('hold_received', await heard('payment_received', payment_hash))
}
const other = await sha256(crypto.getRandomValues(new Uint8Array(32)))
const unwanted = await attempt('unwanted', () => client.makeHoldInvoice({ amount: 7000, payment_hash: other }))
if (plan.hold) {
  say('pay_me', unwanted.invoice)
  await heard('hold_invoice_accepted', other)
}
await attempt('cancelled', () => client.cancelHoldInvoice({ payment_hash: other }))
await attempt('cancelled_looked_up', () => client.lookupInvoice({ payment_hash: other }))

for (let n = 0; n < 25; n++) await client.makeInvoice({ amount: 1000 + n })
const page = (offset, limit) => client.listTransactions({ unpaid: true, type: 'incoming', offset, limit })
await attempt('pages', async () => {
  const pages = [await page(0, 10), await page(10, 10), await page(20, 10), await page(1000, 10)]
  return pages.map(({ transactions }) => transactions.map(one => one.payment_hash))
})
await attempt('page_max', async () => (await page(0, 1000)).transactions.length)
await attempt('settled_only', () => client.listTransactions({}))
await attempt('outgoing_only', () => client.listTransactions({ type: 'outgoing' }))
const later = Math.floor(Date.now() / 1000) + 60
await attempt('nothing_yet', () => client.listTransactions({ from: later }))

await attempt('missing', () => client.lookupInvoice({ payment_hash: '00'.repeat(32) }))
await attempt('nonsense', () => client.payInvoice({ invoice: 'lnbc1nonsense' }))
await attempt('sign_message', () => client.signMessage({ message: 'x' }))
await attempt('create_connection', () => client.createConnection({ pubkey: '11'.repeat(32), name: 'x', request_methods: [] }))
await attempt('multi_pay_invoice', () => client.multiPayInvoice({ invoices: [{ invoice: plan.invoice }] }))
await attempt('multi_pay_keysend', () => client.multiPayKeysend({ keysends: [keysend] }))

unsubscribe()
client.close()
clearTimeout(deadline)
say('end', told.length)
process.exit(0)
