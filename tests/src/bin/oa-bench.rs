//! `oa-bench`: what this machine can do, and how much of it oa makes of it.

fn main() -> std::process::ExitCode {
    oa_tests::bench::main()
}
