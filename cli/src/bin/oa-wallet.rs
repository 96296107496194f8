//! `oa-wallet`: a Lightning wallet that is spoken to by Nostr Wallet Connect.

fn main() -> std::process::ExitCode {
    oa_cli::oa_wallet()
}
