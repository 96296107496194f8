//! `oa-node`: the daemon for a server.

fn main() -> std::process::ExitCode {
    oa_cli::oa_node()
}
