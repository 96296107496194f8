//! Bundles that are none: cut, damaged, forged, of another version, out of order.

use oa_nips::nostr::Keys;

use super::fixture::*;
use crate::bundle::open::OpenError;
use crate::bundle::{Bundle, End, Line, digest, to_be_signed, write};
use crate::keyring::Keyring as _;
use crate::signer::{Conversations, LocalSigner};

/// Made by an earlier build of this format: what it holds must stay readable, and be written the same.
const GOLDEN: &[u8] = include_bytes!("../../../vectors/bundle.oa");

async fn bundle() -> Vec<u8> {
    let store = memory();
    fill(&store).await;
    gather(&store, AT_MS).seal(&*keyring().node()).await.unwrap()
}

/// Lines, and whether an error is the one they should give.
type Case = (Vec<String>, fn(&OpenError) -> bool);

/// The bundle of these lines, signed as it should be.
async fn sealed(lines: &[&str]) -> Vec<u8> {
    let mut bytes: Vec<u8> = lines.iter().flat_map(|line| format!("{line}\n").into_bytes()).collect();
    let sha256 = digest(&bytes);
    let signature = keyring().node().sign_data(to_be_signed(&sha256)).await.unwrap();
    write(&mut bytes, &Line::End(End { sha256, signature }));
    bytes
}

/// The lines of a bundle but the last.
fn lines(bytes: &[u8]) -> Vec<&str> {
    let mut lines: Vec<&str> = std::str::from_utf8(bytes).unwrap().lines().collect();
    lines.pop();
    lines
}

#[tokio::test]
async fn a_bundle_that_is_cut_is_none() {
    let bytes = bundle().await;
    Bundle::open(&bytes).unwrap();
    for end in (0..bytes.len()).step_by(37).chain([bytes.len() - 1]) {
        let cut = &bytes[..end];
        assert!(matches!(Bundle::open(cut), Err(OpenError::NoBundle | OpenError::Truncated)), "at {end}");
    }
    // At the end of a line, too.
    let without_last = lines(&bytes).join("\n") + "\n";
    assert!(matches!(Bundle::open(without_last.as_bytes()), Err(OpenError::Truncated)));
}

#[tokio::test]
async fn a_bundle_with_another_bit_is_none() {
    let bytes = bundle().await;
    for at in (0..bytes.len()).step_by(29) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1;
        assert!(Bundle::open(&damaged).is_err(), "at {at}");
    }
    let mut longer = bytes.clone();
    longer.extend_from_slice(b"{}\n");
    assert!(matches!(Bundle::open(&longer), Err(OpenError::Truncated)));
}

#[tokio::test]
async fn only_the_node_that_is_named_can_have_made_it() {
    let store = memory();
    fill(&store).await;
    let other = LocalSigner::new(Keys::generate(), Conversations::default());
    let bytes = gather(&store, AT_MS).seal(&other).await.unwrap();
    assert!(matches!(Bundle::open(&bytes), Err(OpenError::Signature)));
    // Nor can the agent, whose program may have anything signed.
    let bytes = gather(&store, AT_MS).seal(&*keyring().agent(ID)).await.unwrap();
    assert!(matches!(Bundle::open(&bytes), Err(OpenError::Signature)));
}

#[tokio::test]
async fn other_versions_and_other_files_are_named() {
    let bytes = bundle().await;
    let later = lines(&bytes).join("\n").replacen("\"v\":1", "\"v\":2,\"new\":{}", 1);
    assert!(matches!(Bundle::open(later.as_bytes()), Err(OpenError::Version(2))));
    for text in ["", "\n", "{}", "{\"bundle\":1}", "SQLite format 3\0", "[]\n[]\n"] {
        assert!(matches!(Bundle::open(text.as_bytes()), Err(OpenError::NoBundle)), "{text:?}");
    }
}

#[tokio::test]
async fn what_is_not_in_its_place_is_refused() {
    let bytes = bundle().await;
    let good = lines(&bytes);
    assert_eq!(Bundle::open(&sealed(&good).await).unwrap(), Bundle::open(&bytes).unwrap());
    let find = |what: &str| good.iter().position(|line| line.starts_with(&format!("{{\"{what}\""))).unwrap();
    let swapped = |a: usize, b: usize| {
        let mut lines = good.clone();
        lines.swap(a, b);
        lines
    };
    let twice = |what: &str| {
        let mut lines = good.clone();
        lines.insert(find(what), good[find(what)]);
        lines
    };
    let mut wrong = vec![
        swapped(1, 2),
        swapped(find("file"), find("file") + 1),
        swapped(find("inbox"), find("seen")),
        good[..1].to_vec(),
    ];
    for what in [
        "bundle", "manifest", "file", "alarm", "peer", "seen", "inbox", "letter", "journal", "outbox",
        "record",
    ] {
        wrong.push(twice(what));
    }
    for lines in wrong {
        let error = Bundle::open(&sealed(&lines).await).unwrap_err();
        assert!(matches!(error, OpenError::Order(_)), "{error}");
    }
}

#[tokio::test]
async fn what_does_not_fit_together_is_refused() {
    let bytes = bundle().await;
    let good = lines(&bytes);
    let changed = |from: &str, to: &str| -> Vec<String> {
        let changed: Vec<String> = good.iter().map(|line| line.replace(from, to)).collect();
        assert_ne!(changed, good, "{from}");
        changed
    };
    let without =
        |what: &str| good.iter().filter(|line| !line.contains(what)).map(|line| (*line).to_owned()).collect();
    let cases: Vec<Case> = vec![
        (changed("\"path\":\"/memory/a\"", "\"path\":\"memory/a\""), |e| {
            matches!(e, OpenError::Name(_) | OpenError::Order(_))
        }),
        (changed("\"path\":\"/memory/a\"", "\"path\":\"/schedule/a\""), |e| matches!(e, OpenError::Name(_))),
        (changed("\"id\":\"tea\"", "\"id\":\"../tea\""), |e| matches!(e, OpenError::Name(_))),
        (changed("\"name\":\"alice\"", "\"name\":\"mallory\""), |e| matches!(e, OpenError::Manifest(_))),
        (changed("\"inbox_next\":", "\"inbox_next\":0,\"x\":"), |e| matches!(e, OpenError::Syntax { .. })),
        (changed("\"outcome\":\"replied\"", "\"outcome\":\"paid\""), |e| matches!(e, OpenError::Records(_))),
        (without("\"seq\":2"), |e| matches!(e, OpenError::Head)),
    ];
    for (n, (lines, is_right)) in cases.into_iter().enumerate() {
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        let error = Bundle::open(&sealed(&lines).await).unwrap_err();
        assert!(is_right(&error), "case {n}: {error:?}");
    }
}

#[test]
fn the_golden_bundle_is_read_and_written_the_same() {
    let bundle = Bundle::open(GOLDEN).unwrap();
    assert_eq!((bundle.about.name.as_str(), bundle.about.number), ("alice", ID));
    assert_eq!(bundle.about.node, keyring().node().public_key(), "of the documented seed words");
    let mut bytes = Vec::new();
    bundle.lines().for_each(|line| write(&mut bytes, &line));
    let (body, end) = GOLDEN.split_at(bytes.len());
    assert_eq!(
        String::from_utf8_lossy(&bytes),
        String::from_utf8_lossy(body),
        "a change of the format needs another version"
    );
    assert_eq!(end.iter().filter(|byte| **byte == b'\n').count(), 1);
}
