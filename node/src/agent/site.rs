//! Sites: the hosts and URLs that somebody lets requests go to, and what a URL must be to go anywhere.
//!
//! | written | covers |
//! |---|---|
//! | `api.example.com` | that host, on the scheme's usual port |
//! | `*.example.org` | every name beneath `example.org`, not `example.org` itself |
//! | `localhost:8080` | that host, on this port only |
//! | `https://api.example.com/v1` | `/v1` and what is beneath it, by this scheme only |
//!
//! Both sides are read by one URL parser, and what is compared is what it makes of them: lower case, punycode, addresses
//! in their one spelling. What cannot be told for certain is not covered.

use std::fmt;
use std::net::IpAddr;

use oa_nips::nostr::types::url::{Host, Url};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Longest URL of a request, in bytes.
pub const URL_BYTES_MAX: usize = 8192;

/// In the path of a URL, what a server may read as another path than we do: escaped dots, slashes and percent signs.
const AMBIGUOUS: [&str; 6] = ["..", "%2e", "%2f", "%5c", "%25", "\\"];

/// A host, a part of a host, or all names beneath one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    /// As it was written.
    text: String,
    /// Nothing for whichever there is.
    scheme: Option<String>,
    host: Name,
    /// Nothing for the scheme's own.
    port: Option<u16>,
    /// Nothing for every path.
    path: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Name {
    /// This one.
    Exactly(String),
    /// Those that end with a dot and this.
    Beneath(String),
    /// An address, by number.
    Address(IpAddr),
}

/// Why a text is no site.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SiteError {
    #[error("{0:?} is neither a host, such as api.example.com or *.example.org, nor an http or https url")]
    Unreadable(String),
    #[error("{0:?} has a user, a query or a fragment: only host, port and path can be listed")]
    TooMuch(String),
    #[error("{0:?}: a star stands for the names beneath a domain of at least two parts")]
    Star(String),
}

/// Why a URL can be asked by nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    #[error("the url cannot be read")]
    Unreadable,
    #[error("the url is over {URL_BYTES_MAX} bytes")]
    TooLong,
    #[error("the url is neither http nor https")]
    Scheme,
    #[error("the url has a user or password: they belong into an authorization header")]
    User,
    #[error("the url has no host, or one that ends with a dot")]
    Host,
}

impl Site {
    /// Reads a site.
    ///
    /// # Errors
    /// Names what was written.
    pub fn parse(text: &str) -> Result<Self, SiteError> {
        let unreadable = || SiteError::Unreadable(text.to_owned());
        let (scheme, rest) = match text.split_once("://") {
            Some((scheme, rest)) => (Some(scheme.to_ascii_lowercase()), rest),
            None if text.contains(['/', '?', '#', '\\']) => return Err(unreadable()),
            None => (None, text),
        };
        if rest.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err(unreadable());
        }
        let (is_star, rest) = rest.strip_prefix("*.").map_or((false, rest), |rest| (true, rest));
        let url = format!("{}://{rest}", scheme.as_deref().unwrap_or("https"));
        let url = match target(&url) {
            Ok(url) if url.query().is_none() && !rest.contains('#') => url,
            Ok(_) | Err(TargetError::User) => return Err(SiteError::TooMuch(text.to_owned())),
            Err(_) => return Err(unreadable()),
        };
        let host = match name(&url).ok_or_else(unreadable)? {
            Name::Exactly(name) if name.contains('*') => return Err(SiteError::Star(text.to_owned())),
            Name::Exactly(name) if is_star && name.contains('.') => Name::Beneath(name),
            _ if is_star => return Err(SiteError::Star(text.to_owned())),
            name => name,
        };
        // The parser leaves out the usual port even where it was written.
        let written = url.port().or_else(|| rest.ends_with(":443").then_some(443));
        let port = if scheme.is_some() { url.port_or_known_default() } else { written };
        let path = url.path().trim_end_matches('/');
        let path = (!path.is_empty()).then(|| path.to_owned());
        Ok(Self { text: text.to_owned(), scheme, host, port, path })
    }

    /// Whether a URL that [`target`] read is one of the site's.
    pub fn covers(&self, url: &Url) -> bool {
        let default = match url.scheme() {
            "https" => 443,
            "http" => 80,
            _ => return false,
        };
        self.scheme.as_deref().is_none_or(|scheme| scheme == url.scheme())
            && url.port_or_known_default() == Some(self.port.unwrap_or(default))
            && name(url).is_some_and(|name| self.host.covers(&name))
            && self.path.as_deref().is_none_or(|prefix| is_beneath(url.path(), prefix))
    }
}

impl Name {
    fn covers(&self, host: &Self) -> bool {
        match (self, host) {
            (Self::Beneath(base), Self::Exactly(host)) => {
                host.strip_suffix(base.as_str()).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
            }
            (own, host) => own == host,
        }
    }
}

/// On whole components, and only where every server would agree.
fn is_beneath(path: &str, prefix: &str) -> bool {
    let Some(rest) = path.strip_prefix(prefix) else { return false };
    let lower = rest.to_ascii_lowercase();
    (rest.is_empty() || rest.starts_with('/')) && !AMBIGUOUS.iter().any(|odd| lower.contains(odd))
}

fn name(url: &Url) -> Option<Name> {
    Some(match url.host()? {
        Host::Domain(name) => Name::Exactly(name.to_owned()),
        Host::Ipv4(ip) => Name::Address(IpAddr::V4(ip)),
        Host::Ipv6(ip) => Name::Address(IpAddr::V6(ip).to_canonical()),
    })
}

/// Reads the URL of a request. The fragment is dropped: it is nobody's business on the other side.
///
/// # Errors
/// Says nothing of what was written: it may hold what its reader must not see.
pub fn target(text: &str) -> Result<Url, TargetError> {
    if text.len() > URL_BYTES_MAX {
        return Err(TargetError::TooLong);
    }
    let mut url = Url::parse(text).map_err(|_| TargetError::Unreadable)?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(TargetError::Scheme);
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(TargetError::User);
    }
    if url.host_str().is_none_or(|host| host.is_empty() || host.ends_with('.')) {
        return Err(TargetError::Host);
    }
    url.set_fragment(None);
    Ok(url)
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Serialize for Site {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Site {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn covers(site: &str, url: &str) -> bool {
        let url = target(url).unwrap_or_else(|error| panic!("{url}: {error}"));
        Site::parse(site).unwrap().covers(&url)
    }

    #[test]
    fn a_site_covers_its_own_in_every_spelling() {
        for (site, url) in [
            ("api.example.com", "https://api.example.com"),
            ("api.example.com", "HTTPS://API.Example.COM:443/x?y=1#z"),
            ("API.example.com", "https://api.example.com/x"),
            ("api.example.com", "http://api.example.com/"),
            ("*.example.org", "https://a.example.org/"),
            ("*.example.org", "https://a.b.example.org/"),
            ("localhost:8080", "http://localhost:8080/x"),
            ("example.com:443", "https://example.com/"),
            ("https://api.example.com/v1", "https://api.example.com/v1"),
            ("https://api.example.com/v1/", "https://api.example.com/v1/models?x=%2f"),
            ("https://api.example.com:8443", "https://api.example.com:8443/x"),
            ("https://*.example.org/v1", "https://a.example.org/v1/x"),
            ("bücher.example", "https://xn--bcher-kva.example/"),
            ("1.2.3.4", "https://0x01020304/"),
            ("1.2.3.4", "https://16909060/"),
            ("[2606:4700::1111]", "https://[2606:4700:0:0::1111]/"),
        ] {
            assert!(covers(site, url), "{site} does not cover {url}");
        }
    }

    #[test]
    fn a_site_covers_nothing_that_only_looks_like_it() {
        for (site, url) in [
            ("example.com", "https://evil-example.com/"),
            ("example.com", "https://example.com.evil.org/"),
            ("example.com", "https://api.example.com/"),
            ("example.com", "https://evil.org/example.com"),
            ("example.com", "https://evil.org\\example.com"),
            ("example.com", "https://evil.org#@example.com"),
            ("example.com", "https://evil.org?@example.com"),
            ("*.example.org", "https://example.org/"),
            ("*.example.org", "https://evil-example.org/"),
            ("*.example.org", "https://a.example.org.evil.net/"),
            ("api.example.com", "https://\u{430}pi.example.com/"),
            ("api.example.com", "https://api.example.co\u{3f9}.evil.org/"),
            ("example.com", "https://example.com:8443/"),
            ("localhost:8080", "http://localhost/"),
            ("https://example.com", "http://example.com/"),
            ("http://example.com", "https://example.com/"),
            ("https://example.com/v1", "https://example.com/v10"),
            ("https://example.com/v1", "https://example.com/"),
            ("https://example.com/v1", "https://example.com/v1/../admin"),
            ("https://example.com/v1", "https://example.com/v1/%2e%2e/admin"),
            ("https://example.com/v1", "https://example.com/v1/..%2fadmin"),
            ("https://example.com/v1", "https://example.com/v1/%252e%252e/admin"),
            ("https://example.com/v1", "https://example.com/v1/..;/admin"),
            ("https://example.com/v1", "https://example.com/V1/x"),
            ("1.2.3.4", "https://1.2.3.5/"),
            ("1.2.3.4", "https://1.2.3.4.evil.org/"),
            ("[::1]", "https://[::2]/"),
        ] {
            assert!(!covers(site, url), "{site} covers {url}");
        }
    }

    #[test]
    fn full_width_letters_are_the_letters_they_stand_for() {
        assert!(covers("example.com", "https://ｅxample.com/"), "as every browser reads it");
        assert!(covers("127.0.0.1", "https://[::ffff:127.0.0.1]/"), "a mapped address is the address");
    }

    #[test]
    fn urls_with_more_than_a_place_are_refused() {
        for (url, error) in [
            ("https://api.example.com@evil.org/", TargetError::User),
            ("https://a:b@api.example.com/", TargetError::User),
            ("https://api.example.com./", TargetError::Host),
            ("ftp://api.example.com/", TargetError::Scheme),
            ("file:///etc/passwd", TargetError::Scheme),
            ("//api.example.com", TargetError::Unreadable),
            ("https://{secret:host}/", TargetError::Unreadable),
            ("https://", TargetError::Unreadable),
        ] {
            assert_eq!(target(url), Err(error), "{url}");
        }
        let long = format!("https://example.com/{}", "x".repeat(URL_BYTES_MAX));
        assert_eq!(target(&long), Err(TargetError::TooLong));
    }

    #[test]
    fn what_is_no_site_is_told() {
        for text in [
            "",
            "*",
            "*.com",
            "*.*.example.com",
            "a.*.example.com",
            "*.1.2.3.4",
            "example.com.",
            "a b.example.com",
            "example.com/v1",
            "https://",
            "ftp://example.com",
            "https://u@example.com",
            "https://example.com/?x",
            "https://example.com/#x",
            "example.com:99999",
            "https://example.com\n",
        ] {
            assert!(Site::parse(text).is_err(), "{text:?}");
        }
        let json: Site = serde_json::from_str("\"*.Example.org\"").unwrap();
        assert_eq!(serde_json::to_string(&json).unwrap(), "\"*.Example.org\"");
    }
}
