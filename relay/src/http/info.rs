//! The NIP-11 document: what this relay is and what it refuses.

use serde_json::json;

use crate::config::Limits;

/// NIPs the relay keeps to. 40 is not among them: see the crate documentation.
const SUPPORTED_NIPS: [u16; 6] = [1, 9, 11, 45, 70, 77];

/// Longest subscription id; NIP-01 asks for 64 at least.
pub(crate) const SUBSCRIPTION_ID_MAX: usize = 250;

/// The NIP-11 document for these limits, as JSON.
pub(crate) fn document(limits: &Limits) -> String {
    json!({
        "name": "oa relay",
        "description": "a relay bundled with oa",
        "software": env!("CARGO_PKG_NAME"),
        "version": env!("CARGO_PKG_VERSION"),
        "supported_nips": SUPPORTED_NIPS,
        "limitation": {
            "max_message_length": limits.message_bytes_max,
            "max_subscriptions": limits.subscriptions_per_connection_max,
            "max_limit": limits.filter_limit_max,
            "default_limit": limits.filter_limit_max,
            "max_subid_length": SUBSCRIPTION_ID_MAX,
            "max_event_tags": limits.event_tags_max,
            "max_content_length": limits.event_bytes_max,
            "created_at_upper_limit": limits.event_ahead_secs_max,
            "auth_required": false,
            "payment_required": false,
            "restricted_writes": false,
        },
    })
    .to_string()
}
