//! Where the programs begin: arguments, logging, runtime, the command, the exit code.

use std::future::Future;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use oa_nips::files::Verb;
use tracing_subscriber::EnvFilter;

use crate::args::{Common, Oa, OaCommand, OaNode, OaNodeCommand};
use crate::commands;
use crate::context::Context;
use crate::error::{Error, Kind, Result};
use crate::output::Output;
use crate::passphrase::PassphraseSource;

/// The program `oa`.
pub fn oa() -> ExitCode {
    let Oa { common, command } = Oa::parse();
    run(&common, |context| async move {
        match command {
            OaCommand::Up(args) => commands::up::run(&context, args).await,
            OaCommand::Dm(args) => commands::dm::run(&context, args).await,
            OaCommand::Agent(args) => commands::agent::run(&context, args).await,
            OaCommand::Logs(args) => commands::logs::run(&context, args).await,
            #[cfg(feature = "wallet")]
            OaCommand::Devnet(args) => Box::pin(commands::devnet::run(&context, args)).await,
            OaCommand::Relay(args) => commands::relay::run(&context, args).await,
            OaCommand::Connect(args) => commands::connect::run(&context, args).await,
            OaCommand::Approvals { all } => commands::approvals::list(&context, all).await,
            OaCommand::Approve { id } => commands::approvals::decide(&context, &id, true).await,
            OaCommand::Deny { id } => commands::approvals::decide(&context, &id, false).await,
            OaCommand::Bunker(args) => commands::bunker::run(&context, args).await,
            OaCommand::Key(key) => commands::key::run(&context, &context.passphrase, key),
            #[cfg(feature = "fuse")]
            OaCommand::Mount(args) => {
                commands::mount::run(context.output, args, async || commands::connect(&context).await).await
            }
            #[cfg(feature = "wallet")]
            OaCommand::Wallet(args) => Box::pin(commands::wallet::run(&context, args)).await,
            OaCommand::Ls(place) => commands::files::ls(&context, place).await,
            OaCommand::Stat(place) => commands::files::stat(&context, place).await,
            OaCommand::Cat(place) => commands::files::cat(&context, place).await,
            OaCommand::Call(content) => commands::files::send(&context, Verb::Call, content).await,
            OaCommand::Write(content) => commands::files::send(&context, Verb::Write, content).await,
            OaCommand::Append(content) => commands::files::send(&context, Verb::Append, content).await,
            OaCommand::Tail(args) => commands::tail::run(&context, args).await,
            OaCommand::Mkdir(one) => commands::files::one(&context, Verb::Mkdir, one).await,
            OaCommand::Rm(one) => commands::files::one(&context, Verb::Remove, one).await,
            OaCommand::Mv(args) => commands::files::mv(&context, args).await,
        }
    })
}

/// The program `oa-node`.
pub fn oa_node() -> ExitCode {
    let OaNode { common, command } = OaNode::parse();
    run(&common, |context| async move {
        match command {
            OaNodeCommand::Init { operator, relay: relays, restore: true, words, bundle: bundles } => {
                let asked = commands::bundle::Restore { operator, relays, words, bundles };
                commands::bundle::restore(&context, asked).await
            }
            OaNodeCommand::Init { operator, relay, .. } => commands::node::init(&context, operator, relay),
            OaNodeCommand::Run { take_lease, until_eof } => {
                commands::node::run(&context, take_lease, until_eof).await
            }
            OaNodeCommand::Status => commands::node::status(&context).await,
            OaNodeCommand::Doctor => commands::doctor::run(&context).await,
            OaNodeCommand::Key(key) => commands::node_key::run(&context, key),
        }
    })
}

/// The program `oa-wallet`.
#[cfg(feature = "wallet")]
pub fn oa_wallet() -> ExitCode {
    use crate::wallet::{OaWallet, OaWalletCommand, init, run as serve};
    let OaWallet { common, command } = OaWallet::parse();
    run(&common, |context| async move {
        match command {
            OaWalletCommand::Init(args) => init::run(&context, &args),
            OaWalletCommand::Run { fake, until_eof } => Box::pin(serve::run(&context, fake, until_eof)).await,
        }
    })
}

fn run<F: Future<Output = Result<()>>>(common: &Common, command: impl FnOnce(Context) -> F) -> ExitCode {
    let output = Output { json: common.json };
    let passphrase = PassphraseSource::new(common.passphrase_file.clone());
    let result = log(common.log.as_deref()).and_then(|()| home(common)).and_then(|home| {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let result = runtime.block_on(Box::pin(command(Context { home, output, passphrase })));
        // A blocking read of stdin, say, does not hold up the end.
        runtime.shutdown_background();
        result
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Error { kind, message, hint }) => {
            output.note(format!("error: {message}"));
            if let Some(hint) = hint {
                output.note(format!("hint: {hint}"));
            }
            ExitCode::from(kind.code())
        }
    }
}

fn home(common: &Common) -> Result<PathBuf> {
    let default = || std::env::home_dir().map(|home| home.join(".oa"));
    common.home.clone().or_else(default).ok_or_else(|| {
        Error::new(Kind::Usage, "no home folder is known").hint("name one with --home or OA_HOME")
    })
}

/// What is logged where nobody says it. The relay's library takes each client that goes away without a word for an
/// error.
const LOGGED: &str = "warn,nostr_relay_builder=off";

fn log(filter: Option<&str>) -> Result<()> {
    let filter = EnvFilter::try_new(filter.unwrap_or(LOGGED))
        .map_err(|error| Error::new(Kind::Usage, format!("--log: {error}")))?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // Else a log that cannot be written, on a full disk say, panics in whichever thread had something to say.
    log.log_internal_errors(false).init();
    Ok(())
}
