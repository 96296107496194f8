//! `oa`: agents that live on Nostr, from a terminal.

fn main() -> std::process::ExitCode {
    oa_cli::oa()
}
