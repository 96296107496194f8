//! Agents that agents make: what one inherits. It is never more than its parent has.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::agent::manifest::{ALLOW_MAX, Findable, Manifest, Npub, Ws, is_name};
use crate::namespace::mount::Access;

/// Most children that an agent has at once.
pub const CHILDREN_MAX: usize = 16;
/// How far an agent may descend from one that nobody but people made.
pub const DEPTH_MAX: usize = 3;

/// What is asked of `/children/new`, in JSON or TOML.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wish {
    /// Its own part of the name; its whole name has the parent's before it.
    pub name: String,
    /// What it runs; by default what the parent runs.
    pub program: Option<String>,
    /// Shown in its profile.
    #[serde(default)]
    pub about: String,
    /// A part of the parent's budgets: a fraction of each, or a table of amounts. Nothing by default.
    pub share: Option<Value>,
}

/// What a child has of its parent's budgets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Share {
    /// Requests a day.
    #[serde(default)]
    pub http_per_day: u32,
}

impl Wish {
    /// Reads JSON or TOML.
    ///
    /// # Errors
    /// In the reader's words.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.trim_start().starts_with('{') {
            serde_json::from_str(text).map_err(|error| error.to_string())
        } else {
            toml::from_str(text).map_err(|error| error.to_string())
        }
    }

    /// The share of a parent with these budgets.
    ///
    /// # Errors
    /// A sentence that names the key.
    pub fn share(&self, of: Share) -> Result<Share, String> {
        let wrong = |why: &str| Err(format!("share: {why}"));
        match &self.share {
            None => Ok(Share::default()),
            Some(Value::Number(fraction)) => match fraction.as_f64() {
                Some(fraction) if (0.0..=1.0).contains(&fraction) => {
                    // Whole requests, rounded down; what is at most a u32 stays one.
                    let part = (f64::from(of.http_per_day) * fraction).floor() as u32;
                    Ok(Share { http_per_day: part.min(of.http_per_day) })
                }
                _ => wrong("not from 0 to 1"),
            },
            Some(table) => match serde_json::from_value(table.clone()) {
                Ok(share) => Ok(share),
                Err(error) => wrong(&error.to_string()),
            },
        }
    }
}

/// The manifest of a child: the parent's limits, owner and rules, a name of its own, and its share. The parent may
/// write to it wherever anybody but the owner may.
///
/// # Errors
/// A sentence that names the key.
pub fn derive(
    parent: &Manifest,
    npub: Npub,
    owner: Option<Npub>,
    wish: &Wish,
    share: Share,
) -> Result<Manifest, String> {
    let name = format!("{}-{}", parent.name, wish.name);
    if !is_name(&wish.name) || !is_name(&name) {
        return Err(format!(
            "name: {:?} is not of a-z, 0-9 and -, or too long behind {}-",
            wish.name, parent.name
        ));
    }
    let mut child = Manifest {
        name,
        program: wish.program.clone().unwrap_or_else(|| parent.program.clone()),
        about: wish.about.clone(),
        owner,
        parent: Some(npub),
        ..parent.clone()
    };
    child.http.per_day = share.http_per_day;
    // What has no share in a budget is not passed on, nor what the parent says of itself.
    child.ws = Ws::default();
    child.mounts.retain(|mount| !matches!(mount.access, Access::Budgeted(_)));
    child.profile = Findable { publish: parent.profile.publish, ..Findable::default() };
    if !child.dm.allow.contains(&npub) && child.dm.allow.len() < ALLOW_MAX {
        child.dm.allow.push(npub);
    }
    Ok(child)
}

#[cfg(test)]
mod tests {
    use oa_nips::nostr::Keys;
    use serde_json::json;

    use super::*;
    use crate::agent::manifest::{Level, Policy};
    use crate::money::Caps;

    fn npub() -> Npub {
        Npub(Keys::generate().public_key())
    }

    fn wish(json: Value) -> Wish {
        Wish::parse(&json.to_string()).unwrap()
    }

    #[test]
    fn a_child_is_no_freer_than_its_parent() {
        let text = "name = \"alice\"\nprogram = \"echo\"\n[autonomy]\nlevel = \"supervised\"\n[dm]\npolicy = \"owner\"\n\
                    pow_bits = 9\n[http]\nallow = [\"a.example\"]\n[[mounts]]\npath = \"/nostr\"\naccess = \"read_only\"\n\
                    [[plumb]]\nname = \"q\"\nto = \"nowhere\"\n";
        let parent = Manifest::parse(text).unwrap();
        let (me, owner) = (npub(), npub());
        let wish = wish(json!({ "name": "scout", "about": "looks", "share": 0.5 }));
        let share = wish.share(Share { http_per_day: 9 }).unwrap();
        let child = derive(&parent, me, Some(owner), &wish, share).unwrap();
        assert_eq!(
            (child.name.as_str(), child.program.as_str(), child.about.as_str()),
            ("alice-scout", "echo", "looks")
        );
        assert_eq!((child.owner, child.parent), (Some(owner), Some(me)));
        assert_eq!(
            (child.autonomy.level, child.dm.policy, child.dm.pow_bits),
            (Level::Supervised, Policy::Owner, 9)
        );
        assert_eq!((child.mounts[0].access, child.http.per_day), (Access::ReadOnly, 4));
        assert_eq!((&child.plumb, &child.http.allow), (&parent.plumb, &parent.http.allow));
        assert_eq!(child.dm.allow, [me]);
        assert_eq!(Manifest::parse(&child.to_toml()).unwrap(), child);
    }

    #[test]
    fn a_child_spends_nothing_until_its_owner_has_written_caps_for_it() {
        let text = "name = \"alice\"\nprogram = \"echo\"\n[[mounts]]\npath = \"/wallet\"\n\
                    access = { budgeted = { per_day = \"5000 sat\" } }\n";
        let free = "name = \"alice\"\nprogram = \"echo\"\n";
        let closed = format!("{free}[[mounts]]\npath = \"/wallet\"\naccess = \"read_only\"\n");
        for parent in [text, free, &closed] {
            let parent = Manifest::parse(parent).unwrap();
            let wish = wish(json!({ "name": "scout", "share": 1 }));
            let child = derive(&parent, npub(), None, &wish, Share::default()).unwrap();
            assert_eq!(child.caps("/wallet"), Caps::NOTHING, "{parent:?}");
            let kept = child.mounts.iter().filter(|mount| mount.access == Access::ReadOnly).count();
            assert_eq!(kept, parent.mounts.iter().filter(|mount| mount.access == Access::ReadOnly).count());
            // Its owner's word.
            let given = Manifest { mounts: Manifest::parse(text).unwrap().mounts, ..child };
            assert_eq!(given.caps("/wallet"), Manifest::parse(text).unwrap().caps("/wallet"));
        }
        assert_eq!(Manifest::parse(free).unwrap().caps("/wallet"), Caps::default());
    }

    #[test]
    fn shares_are_fractions_or_amounts() {
        let share =
            |share: Value| wish(json!({ "name": "a", "share": share })).share(Share { http_per_day: 10 });
        assert_eq!(share(json!(0.25)), Ok(Share { http_per_day: 2 }));
        assert_eq!(share(json!(1)), Ok(Share { http_per_day: 10 }));
        assert_eq!(share(json!({ "http_per_day": 7 })), Ok(Share { http_per_day: 7 }));
        assert_eq!(wish(json!({ "name": "a" })).share(Share { http_per_day: 10 }), Ok(Share::default()));
        for wrong in
            [json!(1.1), json!(-0.1), json!("half"), json!({ "sats": 5 }), json!({ "http_per_day": -1 })]
        {
            assert!(share(wrong.clone()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn names_and_unknown_keys_are_checked_and_toml_is_read_too() {
        let parent = Manifest::new("alice", "echo");
        for name in ["", "-a", "A", "a/b", &"a".repeat(60)] {
            let wish = wish(json!({ "name": name }));
            assert!(derive(&parent, npub(), None, &wish, Share::default()).is_err(), "{name}");
        }
        assert!(Wish::parse(r#"{"name":"a","autonomy":"autonomous"}"#).is_err());
        let toml = Wish::parse("name = \"a\"\nshare = 0.5\n").unwrap();
        assert_eq!(toml, wish(json!({ "name": "a", "share": 0.5 })));
    }
}
