//! The kinds that no agent publishes by itself, whatever its manifest says, each with the reason.

/// First kind, last kind, and why not.
pub const FORBIDDEN: &[(u16, u16, &str)] = &[
    (0, 0, "the node publishes the profile"),
    (3, 3, "it replaces the list of whom the agent follows"),
    (4, 4, "direct messages go through /nostr/dm"),
    (5, 5, "a deletion cannot be taken back, and cancels jobs"),
    (13, 13, "a seal vouches for a message"),
    (14, 15, "a message is sealed and wrapped, never public"),
    (62, 62, "it makes relays forget the agent (NIP-62)"),
    (443, 445, "keys and messages of encrypted groups"),
    (1021, 1022, "a bid in an auction is a promise to pay (NIP-15)"),
    (1059, 1059, "wraps are made by the node"),
    (1984, 1984, "a report moderates others"),
    (1985, 1985, "labels rate the counterparts of jobs"),
    (5000, 7000, "requests, results and feedback of jobs are the market's (NIP-90)"),
    (7374, 7376, "ecash of a wallet (NIP-60)"),
    (9000, 9030, "it moderates a group (NIP-29)"),
    (9321, 9321, "ecash that is given away (NIP-61)"),
    (9734, 9735, "zaps are payments (NIP-57)"),
    (9910, 9910, "envelopes between agents are sealed and wrapped"),
    (10_000, 19_999, "it replaces a list or a setting; wallets, relays and DM relays among them"),
    (
        20_000,
        29_999,
        "ephemeral kinds authenticate to relays and servers, sign remotely, pay and steer nodes",
    ),
    (30_000, 30_007, "it replaces a list"),
    (30_015, 30_015, "it replaces a list"),
    (30_030, 30_030, "it replaces a list"),
    (31_989, 31_990, "offers are the market's (NIP-89)"),
    (37_375, 37_375, "an ecash wallet"),
    (38_000, 38_000, "it vouches for a mint (NIP-87)"),
    (38_172, 38_173, "it announces a mint (NIP-87)"),
    (39_200, 39_299, "the node's own: profile, lease, trajectory, backup"),
];

/// Why a kind is never published, if it is one of those.
pub fn forbidden(kind: u16) -> Option<&'static str> {
    FORBIDDEN.iter().find(|(from, to, _)| (*from..=*to).contains(&kind)).map(|(.., why)| *why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_order_and_nothing_stands_in_it_twice() {
        for two in FORBIDDEN.windows(2) {
            let [(from, to, _), (next, ..)] = two else { continue };
            assert!(from <= to && to < next, "{from}-{to} before {next}");
        }
    }

    #[test]
    fn what_could_hurt_is_in_it_and_what_agents_say_is_not() {
        let hurts = [
            0, 3, 4, 5, 13, 14, 15, 62, 1059, 1984, 1985, 5000, 5050, 5930, 6050, 7000, 7375, 9321, 9734,
            9735, 9910, 10_000, 10_002, 10_019, 10_050, 13_194, 17_375, 21_059, 22_242, 23_194, 23_195,
            23_196, 23_197, 24_133, 24_242, 25_930, 25_931, 25_932, 25_933, 27_235, 30_000, 30_001, 30_002,
            30_003, 31_990, 39_200, 39_201, 39_205, 39_230, 39_231,
        ];
        for kind in hurts {
            assert!(forbidden(kind).is_some(), "{kind}");
        }
        for kind in [1, 6, 7, 20, 1111, 9802, 30_023, 30_078, 30_402, 40_000, u16::MAX] {
            assert_eq!(forbidden(kind), None, "{kind}");
        }
    }
}
