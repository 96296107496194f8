// NIP-46 with nostr-tools.
//   bunker.mjs client URI     asks the bunker at URI for everything and prints what it said
//   bunker.mjs bunker RELAY   is a bunker: prints its URI, then serves until its stdin ends
//   bunker.mjs asking RELAY   the same, and has its owner open an address before it does anything for a new client
import WebSocket from 'ws'
import { BunkerSigner, parseBunkerInput, toBunkerURL } from 'nostr-tools/nip46'
import * as nip44 from 'nostr-tools/nip44'
import { SimplePool, useWebSocketImplementation } from 'nostr-tools/pool'
import { finalizeEvent, generateSecretKey, getPublicKey, verifyEvent } from 'nostr-tools/pure'

useWebSocketImplementation(WebSocket)

const [mode, where] = process.argv.slice(-2)
const pool = new SimplePool()
const now = () => Math.floor(Date.now() / 1000)
const say = value => process.stdout.write(JSON.stringify(value) + '\n')

// How a request ended; what takes too long is a failure of its own.
const outcome = async promise => {
  const late = new Promise((_, reject) => setTimeout(() => reject('no answer'), 10_000))
  return Promise.race([promise, late]).then(ok => ({ ok: ok ?? null }), error => ({ error: String(error) }))
}

async function client() {
  const pointer = await parseBunkerInput(where)
  const friend = generateSecretKey()
  const bunker = BunkerSigner.fromBunker(generateSecretKey(), pointer, { pool })
  const said = { early: await outcome(bunker.ping()), connect: await outcome(bunker.connect()) }
  const key = await bunker.getPublicKey()
  const note = { kind: 1, created_at: now(), tags: [['t', 'x']], content: 'signed elsewhere' }
  said.key = key
  said.note = await outcome(bunker.signEvent(note))
  said.profile = await outcome(bunker.signEvent({ ...note, kind: 0, content: '{}' }))
  const cipher = await bunker.nip44Encrypt(getPublicKey(friend), 'to a friend')
  said.read = nip44.decrypt(cipher, nip44.getConversationKey(friend, key))
  said.back = await bunker.nip44Decrypt(getPublicKey(friend), cipher)
  said.legacy = await outcome(bunker.nip04Encrypt(getPublicKey(friend), 'x'))
  said.ping = await outcome(bunker.ping())
  said.moved = await bunker.switchRelays()
  const other = BunkerSigner.fromBunker(generateSecretKey(), pointer, { pool })
  said.again = await outcome(other.connect())
  said.logout = await outcome(bunker.sendRequest('logout', []))
  said.late = await outcome(bunker.ping())
  say(said)
}

// A bunker as small as the NIP allows, which answers each request with noise around the answer.
async function bunker(asks = false) {
  const [transport, user] = [generateSecretKey(), generateSecretKey()]
  const secret = 'once'
  const clients = new Set()
  const known = new Set()
  const key = peer => nip44.getConversationKey(user, peer)
  const methods = {
    get_public_key: () => getPublicKey(user),
    ping: () => 'pong',
    sign_event: template => JSON.stringify(finalizeEvent({ ...JSON.parse(template) }, user)),
    nip44_encrypt: (peer, text) => nip44.encrypt(text, key(peer)),
    nip44_decrypt: (peer, text) => nip44.decrypt(text, key(peer)),
  }
  const answer = (event, { id, method, params }) => {
    if (method === 'connect' && params[1] === secret) clients.add(event.pubkey)
    if (!clients.has(event.pubkey)) return { id, error: 'not invited' }
    if (method === 'connect') return { id, result: secret }
    if (!methods[method]) return { id, error: 'unsupported' }
    try {
      return { id, result: methods[method](...params) }
    } catch (error) {
      return { id, error: error.message }
    }
  }
  const send = (from, to, response) => pool.publish([where], finalizeEvent({
    kind: 24133,
    created_at: now(),
    tags: [['p', to]],
    content: nip44.encrypt(JSON.stringify(response), nip44.getConversationKey(from, to)),
  }, from))
  pool.subscribe([where], { kinds: [24133], '#p': [getPublicKey(transport)], limit: 0 }, {
    async onevent(event) {
      if (!verifyEvent(event)) return
      const conversation = nip44.getConversationKey(transport, event.pubkey)
      const request = JSON.parse(nip44.decrypt(event.content, conversation))
      // Somebody who guessed the id, and an answer to what was not asked.
      send(generateSecretKey(), event.pubkey, { id: request.id, result: 'forged' })
      send(transport, event.pubkey, { id: 'never asked', result: 'forged' })
      if (asks && !known.has(event.pubkey)) {
        known.add(event.pubkey)
        send(transport, event.pubkey, { id: request.id, result: 'auth_url', error: 'https://bunker.example/approve' })
        // He takes a moment.
        await new Promise(resolve => setTimeout(resolve, 300))
      }
      const response = answer(event, request)
      send(transport, event.pubkey, response)
      send(transport, event.pubkey, response)
    },
    oneose() {
      say({ uri: toBunkerURL({ pubkey: getPublicKey(transport), relays: [where], secret }), key: getPublicKey(user) })
    },
  })
  for await (const _ of process.stdin);
}

await { client, bunker, asking: () => bunker(true) }[mode]()
pool.destroy()
process.exit(0)
