//! Which addresses a URL given by others may lead to.
//!
//! Whoever writes a relay list, or a program that makes requests, chooses what the node connects to; without this check
//! that is a way into the operator's own network. The check is on the address that is then connected to, after
//! resolution.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// A host or address that the operator listed, with one port or all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Allowed {
    what: What,
    port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum What {
    /// Whatever this name resolves to, compared without regard to case.
    Host(String),
    /// This address, by whatever name.
    Address(IpAddr),
}

impl Allowed {
    /// Reads an entry of the operator's list: a name or an address, and a port after a colon if only that is meant.
    pub(crate) fn parse(entry: &str) -> Self {
        let entry = entry.trim();
        if let Ok(address) = entry.parse::<SocketAddr>() {
            return Self { what: What::Address(address.ip()), port: Some(address.port()) };
        }
        let bare = entry.trim_start_matches('[').trim_end_matches(']');
        if let Ok(ip) = bare.parse() {
            return Self { what: What::Address(ip), port: None };
        }
        let with_port = entry.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
        let (host, port) = with_port.map_or((entry, None), |(host, port)| (host, Some(port)));
        Self { what: What::Host(host.to_ascii_lowercase()), port }
    }

    fn covers(&self, host: &str, address: SocketAddr) -> bool {
        let is_it = match &self.what {
            What::Host(name) => name.eq_ignore_ascii_case(host),
            What::Address(ip) => *ip == address.ip().to_canonical(),
        };
        is_it && self.port.is_none_or(|port| port == address.port())
    }
}

/// What decides on each address of a host that others named.
#[derive(Debug, Clone, Default)]
pub(crate) struct Gate {
    /// What the operator listed.
    pub(crate) allowed: Vec<Allowed>,
    /// Where the operator's own relays are, as far as their URLs say so by number.
    pub(crate) own: Vec<SocketAddr>,
}

impl Gate {
    /// Whether `host`, which resolved to `address`, may be connected to.
    pub(crate) fn admits(&self, host: &str, address: SocketAddr) -> bool {
        is_public(address.ip()) || self.own.contains(&address) || self.lists(host, address)
    }

    /// Whether the operator listed `host` as it is written, with this port or with all.
    pub(crate) fn names(&self, host: &str, port: Option<u16>) -> bool {
        let is_it = |what: &What| match what {
            What::Host(name) => name.eq_ignore_ascii_case(host),
            What::Address(ip) => host.parse() == Ok(*ip),
        };
        let mut allowed = self.allowed.iter();
        allowed.any(|allowed| is_it(&allowed.what) && (allowed.port.is_none() || allowed.port == port))
    }

    /// Whether the operator listed `host`, which resolved to `address`.
    pub(crate) fn lists(&self, host: &str, address: SocketAddr) -> bool {
        self.allowed.iter().any(|allowed| allowed.covers(host, address))
    }
}

/// Whether an address is one of the public internet (IANA's special-purpose registries).
fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => is_public_v4(ip),
        IpAddr::V6(ip) => is_public_v6(ip),
    }
}

fn is_public_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    let shared = a == 100 && (64..128).contains(&b); // carrier-grade NAT, RFC 6598
    let protocol = a == 192 && b == 0 && c == 0; // RFC 6890
    let relay_6to4 = a == 192 && b == 88 && c == 99; // RFC 7526
    let benchmark = a == 198 && (b == 18 || b == 19); // RFC 2544
    let special = a == 0 || a >= 224 || shared || protocol || relay_6to4 || benchmark;
    let known = ip.is_private() || ip.is_loopback() || ip.is_link_local() || ip.is_documentation();
    !(special || known)
}

fn is_public_v6(ip: Ipv6Addr) -> bool {
    if let Some(inner) = embedded_v4(ip) {
        return is_public_v4(inner);
    }
    let [first, second, ..] = ip.segments();
    let global = first & 0xe000 == 0x2000; // 2000::/3, all that is given out
    let documentation = (first == 0x2001 && second == 0xdb8) || (first == 0x3fff && second < 0x1000);
    let protocol = first == 0x2001 && second < 0x200; // RFC 2928, with Teredo
    global && !documentation && !protocol
}

/// The IPv4 address that traffic to `ip` would end at: mapped, NAT64 (RFC 6052) or 6to4 (RFC 3056).
fn embedded_v4(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    let four = |high: u16, low: u16| Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low));
    match ip.segments() {
        [0, 0, 0, 0, 0, 0xffff, high, low] => Some(four(high, low)),
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some(four(high, low)),
        [0x2002, high, low, ..] => Some(four(high, low)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_the_operators_network_are_not_public() {
        for ip in [
            "127.0.0.1",
            "127.9.9.9",
            "0.0.0.0",
            "10.1.2.3",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "100.127.255.255",
            "192.0.0.8",
            "198.18.0.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "fe80::1",
            "fec0::1",
            "fc00::1",
            "fd12::1",
            "ff02::1",
            "2001:db8::1",
            "2001::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::127.0.0.1",
            "64:ff9b::c0a8:101",
            "2002:7f00:1::",
            "64:ff9b:1::1",
            "100::1",
        ] {
            assert!(!is_public(ip.parse().unwrap()), "{ip} passed");
        }
    }

    #[test]
    fn addresses_of_the_internet_are_public() {
        for ip in ["1.1.1.1", "100.63.0.1", "100.128.0.1", "172.32.0.1", "2606:4700::1111", "::ffff:1.1.1.1"]
        {
            assert!(is_public(ip.parse().unwrap()), "{ip} was refused");
        }
    }

    #[test]
    fn the_operators_list_opens_hosts_and_addresses() {
        let gate = Gate {
            allowed: vec![
                Allowed::parse("Relay.lan"),
                Allowed::parse("10.0.0.7"),
                Allowed::parse("[fd00::7]"),
            ],
            own: vec!["127.0.0.1:7447".parse().unwrap()],
        };
        assert!(gate.admits("relay.LAN", "192.168.0.9:80".parse().unwrap()));
        assert!(gate.admits("anything", "10.0.0.7:80".parse().unwrap()));
        assert!(gate.admits("anything", "[::ffff:10.0.0.7]:80".parse().unwrap()));
        assert!(gate.admits("anything", "[fd00::7]:80".parse().unwrap()));
        assert!(gate.admits("localhost", "127.0.0.1:7447".parse().unwrap()));
        assert!(!gate.admits("localhost", "127.0.0.1:7448".parse().unwrap()));
        assert!(!gate.admits("anything", "10.0.0.8:80".parse().unwrap()));
    }

    #[test]
    fn a_port_that_is_listed_opens_no_other() {
        let allowed = ["models.lan:8080", "10.0.0.7:80", "[::1]:80"].map(Allowed::parse).to_vec();
        let gate = Gate { allowed, own: Vec::new() };
        assert!(gate.lists("models.lan", "10.0.0.9:8080".parse().unwrap()));
        assert!(gate.lists("anything", "10.0.0.7:80".parse().unwrap()));
        assert!(gate.lists("anything", "[::1]:80".parse().unwrap()));
        for (host, address) in
            [("models.lan", "10.0.0.9:80"), ("anything", "10.0.0.7:81"), ("anything", "[::1]:22")]
        {
            assert!(!gate.admits(host, address.parse().unwrap()), "{host} {address}");
        }
        assert!(!gate.lists("one.one.one.one", "1.1.1.1:443".parse().unwrap()), "public, and not listed");
    }
}
