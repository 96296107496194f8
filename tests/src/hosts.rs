//! Two machines with a relay between, made of network namespaces: node and client each see the relay's host and nothing
//! else, and what is between can lose packets, fall silent and reset connections.
//!
//! All of it goes away with [`Hosts`], also after a panic. It takes root and the programs `ip`, `iptables` and `ss`.

mod host;

use std::fmt;
use std::time::Duration;

use anyhow::Result;
use oa_node::codes;

pub use host::Host;

/// The relay's address, the same for both sides.
pub const RELAY: &str = "10.77.0.1";
/// What part of the packets is lost, in each direction.
pub const LOSS: &str = "0.02";

/// One of the two who talk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Node,
    Client,
}

/// What happens to the connections of one side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Both ends are told at once.
    Reset,
    /// Nothing passes for so long; connections outlive it, if they are patient.
    Silence(Duration),
    /// Nothing passes for so long, and meanwhile the relay's end is closed: the other end is not told.
    HalfOpen(Duration),
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reset => write!(f, "reset"),
            Self::Silence(time) => write!(f, "silent for {time:?}"),
            Self::HalfOpen(time) => write!(f, "half open, silent for {time:?}"),
        }
    }
}

/// The three hosts.
#[derive(Debug)]
pub struct Hosts {
    /// Where the node runs.
    pub node: Host,
    /// Where the relay runs.
    pub relay: Host,
    /// Where whoever steers the node is.
    pub client: Host,
}

impl Hosts {
    /// Makes them, with nothing lost yet.
    ///
    /// # Errors
    /// When this machine, or this user, cannot.
    pub fn new() -> Result<Self> {
        let suffix = codes::code().to_lowercase();
        let add = |what: &str| Host::add(format!("oa-{what}-{suffix}"));
        let hosts = Self { node: add("node")?, relay: add("relay")?, client: add("client")? };
        let Self { relay, .. } = &hosts;
        relay.ip(&format!("addr add {RELAY}/32 dev lo"))?;
        relay.ip("link set lo up")?;
        for side in [Side::Node, Side::Client] {
            let (host, link, n) = (hosts.host(side), side.link(), side.net());
            host.ip(&format!("link add to-relay type veth peer name {link} netns {}", relay.name()))?;
            relay.ip(&format!("addr add 10.77.{n}.1/24 dev {link}"))?;
            relay.ip(&format!("link set {link} up"))?;
            host.ip(&format!("addr add 10.77.{n}.2/24 dev to-relay"))?;
            host.ip("link set lo up")?;
            host.ip("link set to-relay up")?;
            host.ip(&format!("route add {RELAY} via 10.77.{n}.1"))?;
        }
        // What will be needed later is there.
        hosts.lose()?;
        hosts.lose_nothing()?;
        relay.exec("ss -K dst 192.0.2.1")?;
        Ok(hosts)
    }

    fn host(&self, side: Side) -> &Host {
        match side {
            Side::Node => &self.node,
            Side::Client => &self.client,
        }
    }

    fn all(&self) -> [&Host; 3] {
        [&self.node, &self.relay, &self.client]
    }

    /// Loses [`LOSS`] of the packets from now on. They are dropped where they arrive: who sent them is not told.
    ///
    /// # Errors
    /// What `iptables` said.
    pub fn lose(&self) -> Result<()> {
        self.rule("-A")
    }

    /// Loses nothing any more.
    ///
    /// # Errors
    /// What `iptables` said.
    pub fn lose_nothing(&self) -> Result<()> {
        self.rule("-D")
    }

    /// The second rule only counts what passes.
    fn rule(&self, add_or_delete: &str) -> Result<()> {
        let others = format!("iptables -w {add_or_delete} INPUT ! -i lo");
        for host in self.all() {
            host.exec(&format!("{others} -m statistic --mode random --probability {LOSS} -j DROP"))?;
            host.exec(&others)?;
        }
        Ok(())
    }

    /// Packets that were lost by chance since [`Hosts::lose`], and all that arrived or were.
    ///
    /// # Errors
    /// What `iptables` said.
    pub fn lost(&self) -> Result<(u64, u64)> {
        let (mut lost, mut passed) = (0, 0);
        for host in self.all() {
            for line in host.exec("iptables -w -nvxL INPUT")?.lines() {
                let Some(count) = line.split_whitespace().next().and_then(|count| count.parse::<u64>().ok())
                else {
                    continue;
                };
                *(if line.contains("statistic") { &mut lost } else { &mut passed }) += count;
            }
        }
        Ok((lost, lost + passed))
    }

    /// Cuts the connections of one side.
    ///
    /// # Errors
    /// What `ss` or `iptables` said.
    pub async fn cut(&self, side: Side, cut: Cut) -> Result<()> {
        let reset = || self.relay.exec(&format!("ss -K dst 10.77.{}.2", side.net())).map(drop);
        let (time, is_reset) = match cut {
            Cut::Reset => return reset(),
            Cut::Silence(time) => (time, false),
            Cut::HalfOpen(time) => (time, true),
        };
        let (host, link) = (self.host(side), side.link());
        host.exec("iptables -w -I INPUT 1 -i to-relay -j DROP")?;
        self.relay.exec(&format!("iptables -w -I INPUT 1 -i {link} -j DROP"))?;
        if is_reset {
            reset()?;
        }
        tokio::time::sleep(time).await;
        host.exec("iptables -w -D INPUT -i to-relay -j DROP")?;
        self.relay.exec(&format!("iptables -w -D INPUT -i {link} -j DROP"))?;
        Ok(())
    }
}

impl Side {
    /// Its link, at the relay's end.
    fn link(self) -> &'static str {
        match self {
            Self::Node => "to-node",
            Self::Client => "to-client",
        }
    }

    fn net(self) -> u8 {
        match self {
            Self::Node => 1,
            Self::Client => 2,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[tokio::test]
    async fn each_side_sees_the_relay_and_nothing_else_and_a_cut_is_seen_by_both() {
        let hosts = match Hosts::new() {
            Ok(hosts) => hosts,
            Err(error) => return eprintln!("NOT TESTED: no hosts can be made: {error:#}"),
        };
        let listener = hosts.relay.run(|| async { Ok(TcpListener::bind((RELAY, 7447))?) }).await.unwrap();
        let dial = |to: &'static str| async move {
            Ok(TcpStream::connect_timeout(&to.parse()?, Duration::from_millis(500))?)
        };
        let mut near = hosts.client.run(move || dial("10.77.0.1:7447")).await.unwrap();
        let (mut far, from) = listener.accept().unwrap();
        assert_eq!(from.ip().to_string(), "10.77.2.2");
        hosts.client.run(move || dial("10.77.1.2:7447")).await.unwrap_err();
        near.write_all(b"x").unwrap();
        far.read_exact(&mut [0]).unwrap();
        hosts.cut(Side::Client, Cut::Reset).await.unwrap();
        near.read(&mut [0]).unwrap_err();
        far.read(&mut [0]).unwrap_err();
        let name = hosts.node.name().to_owned();
        drop(hosts);
        assert!(!std::path::Path::new("/run/netns").join(name).exists());
    }
}
