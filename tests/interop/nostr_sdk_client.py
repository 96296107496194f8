"""Writes to an agent with nostr-sdk and prints its reply: nostr_sdk_client.py RELAY NPUB nip17|nip04 TEXT"""

import asyncio
import json
import sys
from datetime import timedelta

from nostr_sdk import (
    ClientBuilder, EventBuilder, Filter, GossipAllowedRelays, GossipConfig, Keys, Kind, NostrGossip, PublicKey,
    RelayUrl, ReqTarget, SendEventTarget, Tag, UnwrappedGift, nip04_decrypt, nip04_encrypt, nip17_make_private_msg,
)

WRAP, LEGACY, DM_RELAYS = 1059, 4, 10050


def unwrap(keys, protocol, event):
    """The message in an event: who wrote it, its kind, what it says."""
    if protocol == "nip04":
        text = nip04_decrypt(keys.secret_key(), event.author(), event.content())
        return event.author(), event.kind(), text
    rumor = UnwrappedGift.from_gift_wrap(keys, event).rumor()
    return rumor.author(), rumor.kind(), rumor.content()


async def main(relay, npub, protocol, text):
    keys = Keys.generate()
    agent = PublicKey.parse(npub)
    relay = RelayUrl.parse(relay)
    # The agent's relays are found as anybody's are; the one on this machine must be allowed.
    gossip = GossipConfig().allowed(GossipAllowedRelays(local=True, without_tls=True))
    client = ClientBuilder().gossip(NostrGossip.in_memory()).gossip_config(gossip).build()
    await client.add_relay(relay)
    await client.connect(and_wait=timedelta(seconds=5))

    mine = EventBuilder(Kind(DM_RELAYS), "").tags([Tag.parse(["relay", str(relay)])]).finalize(keys)
    await client.send_event(mine, target=SendEventTarget.broadcast())
    kind = Kind(WRAP if protocol == "nip17" else LEGACY)
    notifications = client.notifications()
    # By name of the relay: what the pool would choose for mail to us is what has just been published.
    await client.subscribe(ReqTarget.single(relay, [Filter().kind(kind).pubkey(keys.public_key())]))

    if protocol == "nip17":
        message = nip17_make_private_msg(keys, agent, text)
        sent = await client.send_event(message, target=SendEventTarget.to_nip17())
    else:
        content = nip04_encrypt(keys.secret_key(), agent, text)
        message = EventBuilder(kind, content).tags([Tag.public_key(agent)]).finalize(keys)
        sent = await client.send_event(message)
    if not sent.success:
        sys.exit(f"not sent: {sent.failed}")

    while (notification := await notifications.next()) is not None:
        if notification.is_new_event() and notification.event.kind() == kind:
            author, kind_of_message, text = unwrap(keys, protocol, notification.event)
            if author == agent:
                print(json.dumps({"protocol": protocol, "text": text, "kind": kind_of_message.as_u16()}))
                break
    await client.shutdown()


asyncio.run(asyncio.wait_for(main(*sys.argv[1:]), timeout=20))
