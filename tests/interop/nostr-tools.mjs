// Writes to an agent with nostr-tools and prints its reply: nostr-tools.mjs RELAY NPUB nip17|nip04 TEXT
import WebSocket from 'ws'
import * as nip04 from 'nostr-tools/nip04'
import * as nip17 from 'nostr-tools/nip17'
import { decode } from 'nostr-tools/nip19'
import { SimplePool, useWebSocketImplementation } from 'nostr-tools/pool'
import { finalizeEvent, generateSecretKey, getPublicKey } from 'nostr-tools/pure'

useWebSocketImplementation(WebSocket)

const [relay, npub, protocol, text] = process.argv.slice(2)
const agent = decode(npub).data
const secret = generateSecretKey()
const me = getPublicKey(secret)
const pool = new SimplePool()

const write = {
  nip17: () => nip17.wrapEvent(secret, { publicKey: agent }, text),
  nip04: () => finalizeEvent({
    kind: 4,
    created_at: Math.floor(Date.now() / 1000),
    tags: [['p', agent]],
    content: nip04.encrypt(secret, agent, text),
  }, secret),
}
const read = {
  nip17: event => nip17.unwrapEvent(event, secret),
  nip04: event => ({ ...event, content: nip04.decrypt(secret, event.pubkey, event.content) }),
}
const kinds = { nip17: [1059], nip04: [4] }

const reply = new Promise((resolve, reject) => {
  setTimeout(() => reject(new Error('no reply')), 20_000)
  // Wraps are dated back by up to two days, so nothing is asked by time.
  pool.subscribe([relay], { kinds: kinds[protocol], '#p': [me] }, {
    onevent(event) {
      const message = read[protocol](event)
      if (message.pubkey === agent) resolve(message)
    },
  })
})
await Promise.all(pool.publish([relay], write[protocol]()))
const message = await reply
console.log(JSON.stringify({ protocol, text: message.content, kind: message.kind, tags: message.tags }))
pool.destroy()
process.exit(0)
