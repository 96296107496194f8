// Uses a wallet with Alby's SDK as an app would, and prints what it got: nwc.mjs URI [INVOICE]
import WebSocket from 'ws'
import { NWCClient } from '@getalby/sdk/nwc'

globalThis.WebSocket ??= WebSocket

const [uri, invoice] = process.argv.slice(2)
const client = new NWCClient({ nostrWalletConnectUrl: uri })
const got = {}

/** What a call gives, or its error's code. */
const attempt = async call => {
  try {
    return await call()
  } catch (error) {
    return { error: error.code ?? error.message }
  }
}
const hex = bytes => Buffer.from(bytes).toString('hex')
const sha256 = async bytes => hex(await crypto.subtle.digest('SHA-256', bytes))

setTimeout(() => {
  console.error('no answer', JSON.stringify(got))
  process.exit(1)
}, 60_000)

const told = []
got.service = await client.getWalletServiceInfo()
const unsubscribe = await client.subscribeNotifications(notification => told.push(notification))
got.info = await attempt(() => client.getInfo())
got.balance = await attempt(() => client.getBalance())
got.budget = await attempt(() => client.getBudget())
got.made = await attempt(() => client.makeInvoice({ amount: 5000, description: 'tea', metadata: { from: 'alby' } }))
got.looked_up = await attempt(() => client.lookupInvoice({ payment_hash: got.made.payment_hash }))
if (invoice) {
  got.paid = await attempt(() => client.payInvoice({ invoice }))
  got.paid_again = await attempt(() => client.payInvoice({ invoice }))
}
got.keysend = await attempt(() => client.payKeysend({
  amount: 1000,
  pubkey: '02' + 'ab'.repeat(32),
  tlv_records: [{ type: 5482373485, value: '0123' }],
}))

const preimage = crypto.getRandomValues(new Uint8Array(32))
const payment_hash = await sha256(preimage)
got.hold = await attempt(() => client.makeHoldInvoice({ amount: 7000, description: 'held', payment_hash }))
got.settle_too_early = await attempt(() => client.settleHoldInvoice({ preimage: hex(preimage) }))
got.cancelled = await attempt(() => client.cancelHoldInvoice({ payment_hash }))
got.list = await attempt(() => client.listTransactions({ unpaid: true }))
got.missing = await attempt(() => client.lookupInvoice({ payment_hash: '00'.repeat(32) }))
got.nonsense = await attempt(() => client.payInvoice({ invoice: 'lnbc1nonsense' }))
got.unknown = await attempt(() => client.signMessage({ message: 'x' }))

// Notifications come on their own; a payment made is told at the latest a moment after its answer.
const deadline = Date.now() + 10_000
while (invoice && told.length === 0 && Date.now() < deadline) await new Promise(done => setTimeout(done, 20))
got.notifications = told
unsubscribe()
client.close()
console.log(JSON.stringify(got))
process.exit(0)
