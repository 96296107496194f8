//! TLS towards the outside, set up once for whoever connects.

use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};

/// Mozilla's roots and an explicit provider: rustls panics if it has to choose between two that others linked.
///
/// # Errors
/// When the provider cannot do what TLS 1.2 and 1.3 need.
pub(crate) fn config() -> Result<Arc<ClientConfig>, rustls::Error> {
    let mut roots = RootCertStore::empty();
    roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    with_roots(roots)
}

/// TLS that believes these roots.
///
/// # Errors
/// As [`config`].
pub(crate) fn with_roots(roots: RootCertStore) -> Result<Arc<ClientConfig>, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(Arc::new(config.with_root_certificates(roots).with_no_client_auth()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tls_can_be_set_up() {
        assert!(config().is_ok());
    }
}
