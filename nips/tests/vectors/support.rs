//! Reading vector files, and the keys and nonces that they fix.

use std::fmt::Debug;

use oa_nips::nostr::nips::nip44;
use oa_nips::nostr::secp256k1::rand::{CryptoRng, Error, RngCore};
use oa_nips::nostr::{Event, JsonUtil, Keys, PublicKey, SECP256K1, UnsignedEvent};
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Every vector file, by name.
pub(crate) const FILES: [(&str, &str); 10] = [
    ("discovery", include_str!("../../vectors/discovery.json")),
    ("envelope", include_str!("../../vectors/envelope.json")),
    ("files", include_str!("../../vectors/files.json")),
    ("hud", include_str!("../../vectors/hud.json")),
    ("lease", include_str!("../../vectors/lease.json")),
    ("mail", include_str!("../../vectors/mail.json")),
    // Read by the wallet, whose methods they are.
    ("nwc_admin", include_str!("../../vectors/nwc_admin.json")),
    ("profile", include_str!("../../vectors/profile.json")),
    ("record", include_str!("../../vectors/record.json")),
    ("trajectory", include_str!("../../vectors/trajectory.json")),
];

/// The cases of one section of one file.
pub(crate) fn cases(file: &str, section: &str) -> Vec<Value> {
    let (_, text) = FILES.iter().find(|(name, _)| *name == file).unwrap();
    let file: Value = serde_json::from_str(text).unwrap();
    let cases = file[section].as_array().unwrap().clone();
    assert!(!cases.is_empty());
    cases
}

/// Checks that each case gives what it says.
pub(crate) fn recompute(file: &str, section: &str, compute: impl Fn(&Value) -> Value) {
    for case in cases(file, section) {
        let gives = compute(&case["given"]);
        assert_eq!(gives, case["gives"], "{file}, {section}, {}: got {gives}", case["name"]);
    }
}

/// Checks that each case is refused for the reason it says.
pub(crate) fn refuse(file: &str, read: impl Fn(&Value) -> Result<(), String>) {
    refuse_in(file, "refused", read);
}

/// The same for a section of another name.
pub(crate) fn refuse_in(file: &str, section: &str, read: impl Fn(&Value) -> Result<(), String>) {
    for case in cases(file, section) {
        let error = read(&case["given"]).expect_err(case["name"].as_str().unwrap());
        assert_eq!(Value::from(error), case["error"], "{file}, {}", case["name"]);
    }
}

/// The name of an error's variant.
pub(crate) fn variant(error: impl Debug) -> String {
    let debug = format!("{error:?}");
    debug.split(|c: char| !c.is_ascii_alphanumeric()).next().unwrap().to_owned()
}

/// What is given under a key, as a type of its own.
pub(crate) fn given<T: DeserializeOwned>(given: &Value, key: &str) -> T {
    serde_json::from_value(given[key].clone()).unwrap_or_else(|error| panic!("{key} of {given}: {error}"))
}

/// The key pair of a secret that is given.
pub(crate) fn keys(secrets: &Value, key: &str) -> Keys {
    Keys::parse(secrets[key].as_str().unwrap()).unwrap()
}

/// Randomness that is given: these bytes, again and again.
pub(crate) struct Fixed(Vec<u8>);

impl Fixed {
    pub(crate) fn hex(hex: &Value) -> Self {
        let hex = hex.as_str().unwrap();
        Self((0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect())
    }
}

impl RngCore for Fixed {
    fn next_u32(&mut self) -> u32 {
        panic!("only bytes are asked for")
    }

    fn next_u64(&mut self) -> u64 {
        panic!("only bytes are asked for")
    }

    fn fill_bytes(&mut self, out: &mut [u8]) {
        assert_eq!(out.len(), self.0.len());
        out.copy_from_slice(&self.0);
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Error> {
        self.fill_bytes(out);
        Ok(())
    }
}

impl CryptoRng for Fixed {}

/// Signs with 32 zero bytes of auxiliary randomness (BIP-340).
pub(crate) fn sign(event: UnsignedEvent, keys: &Keys) -> Event {
    event.sign_with_ctx(SECP256K1, &mut Fixed(vec![0; 32]), keys).unwrap()
}

/// Encrypts with a nonce that is given (NIP-44 version 2).
pub(crate) fn encrypt(from: &Keys, to: &PublicKey, nonce: &Value, text: &str) -> String {
    let mut nonce = Fixed::hex(nonce);
    nip44::encrypt_with_rng(&mut nonce, from.secret_key(), to, text, nip44::Version::V2).unwrap()
}

/// An event as a value.
pub(crate) fn value(event: &Event) -> Value {
    serde_json::from_str(&event.as_json()).unwrap()
}
