//! Encrypting and decrypting by either scheme, through a signer.

use oa_nips::nostr::PublicKey;
use oa_nips::nwc::Encryption;
use oa_nips::port::{Signer, SignerError};

pub(super) async fn encrypt(
    signer: &dyn Signer,
    peer: &PublicKey,
    encryption: Encryption,
    text: &str,
) -> Result<String, SignerError> {
    match encryption {
        Encryption::Nip04 => signer.nip04_encrypt(peer, text).await,
        Encryption::Nip44 => signer.nip44_encrypt(peer, text).await,
    }
}

pub(super) async fn decrypt(
    signer: &dyn Signer,
    peer: &PublicKey,
    encryption: Encryption,
    text: &str,
) -> Result<String, SignerError> {
    match encryption {
        Encryption::Nip04 => signer.nip04_decrypt(peer, text).await,
        Encryption::Nip44 => signer.nip44_decrypt(peer, text).await,
    }
}
