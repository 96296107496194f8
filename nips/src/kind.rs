//! Every event kind that `oa` writes or reads, in one table (DESIGN section 3).

use nostr::Kind;

/// Profile (NIP-01), with `bot: true` (NIP-24).
pub const METADATA: Kind = Kind::Metadata;
/// Legacy direct message (NIP-04).
pub const LEGACY_DM: Kind = Kind::EncryptedDirectMessage;
/// Deletion of one's own events (NIP-09).
pub const DELETION: Kind = Kind::EventDeletion;
/// Reaction inside a wrap (NIP-25).
pub const REACTION: Kind = Kind::Reaction;
/// Seal (NIP-59).
pub const SEAL: Kind = Kind::Seal;
/// Text rumor (NIP-17).
pub const CHAT: Kind = Kind::PrivateDirectMessage;
/// File rumor (NIP-17).
pub const FILE: Kind = Kind::Custom(15);
/// Gift wrap (NIP-59).
pub const WRAP: Kind = Kind::GiftWrap;
/// Ephemeral gift wrap (NIP-59, 2026).
pub const EPHEMERAL_WRAP: Kind = Kind::Custom(21059);
/// What an agent says to an agent, as a rumor; JSON of [`crate::envelope::Envelope`].
pub const ENVELOPE: Kind = Kind::Custom(9910);
/// Relay list (NIP-65).
pub const RELAY_LIST: Kind = Kind::RelayList;
/// Relays for direct messages (NIP-17).
pub const DM_RELAYS: Kind = Kind::InboxRelays;
/// Authentication to a relay (NIP-42).
pub const AUTH: Kind = Kind::Authentication;
/// What a wallet can do (NIP-47).
pub const WALLET_INFO: Kind = Kind::WalletConnectInfo;
/// Ephemeral: a request to a wallet (NIP-47).
pub const WALLET_REQUEST: Kind = Kind::WalletConnectRequest;
/// Ephemeral: a wallet's response (NIP-47).
pub const WALLET_RESPONSE: Kind = Kind::WalletConnectResponse;
/// Ephemeral: a wallet's notification in NIP-04, for clients that know no other (NIP-47).
pub const WALLET_NOTIFICATION_LEGACY: Kind = Kind::WalletConnectNotification;
/// Ephemeral: a wallet's notification (NIP-47).
pub const WALLET_NOTIFICATION: Kind = Kind::Custom(23197);
/// Operator protocol: request.
pub const FILES_REQUEST: Kind = Kind::Custom(25930);
/// Operator protocol: reply.
pub const FILES_REPLY: Kind = Kind::Custom(25931);
/// Operator protocol: stream frame.
pub const FILES_STREAM: Kind = Kind::Custom(25932);
/// Ephemeral: what the public sees of an agent at work.
pub const HUD: Kind = Kind::Custom(25933);
/// Addressable: what an agent can do and what it is, `d=profile`.
pub const AGENT: Kind = Kind::Custom(39200);
/// Addressable: an owner's word that an agent is theirs, `d=<agent>`.
pub const OWNER: Kind = Kind::Custom(39203);
/// Addressable: which running node holds a key, `d=lease`.
pub const LEASE: Kind = Kind::Custom(39205);
/// Addressable: a trajectory's session, `d=<session>`.
pub const SESSION: Kind = Kind::Custom(39230);
/// Addressable: a batch of tick records, `d=<session>:<first seq>`.
pub const RECORDS: Kind = Kind::Custom(39231);
