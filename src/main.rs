//! The `hearth` binary: arguments, exit codes, and nothing else.

mod admin;
mod admin_arguments;
mod admin_text;
mod arguments;
mod bench;
mod ca;
mod dev;
mod losses;
mod output;
mod rebuild;
mod serve;
mod sim;
mod store;
mod store_arguments;
mod verify;
mod votes;
mod why;

use std::process::ExitCode;

use clap::Parser;

use crate::arguments::{Arguments, Verb};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How often memory that was freed is given back. mimalloc does so with what has been free for a second, and looks only
/// when one of its pages becomes free: a process that came to rest frees none.
const GIVE_BACK: std::time::Duration = std::time::Duration::from_secs(1);
/// Bytes that mimalloc keeps in a page of their own.
const PAGE: usize = 1024 * 1024;

/// Exit code for arguments that cannot be used.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return usage(&error),
    };
    if matches!(arguments.verb, Verb::Sim(_)) {
        sim::keep_memory();
    }
    // Another provider may be compiled in by a dependency some day: ours is chosen, first thing.
    if hearth_config::crypto_provider().install_default().is_err() {
        return output::failure(70, "another TLS provider was installed first", "this is a fault of the build", false);
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            return output::failure(70, &format!("no runtime: {error}"), "free some memory or threads", false);
        }
    };
    runtime.spawn(give_memory_back());
    let code = runtime.block_on(run(arguments));
    // What still runs after everything was stopped is not waited for.
    runtime.shutdown_timeout(std::time::Duration::from_millis(200));
    code
}

async fn give_memory_back() {
    loop {
        tokio::time::sleep(GIVE_BACK).await;
        // Nothing is written to it: it costs no memory.
        drop(std::hint::black_box(Vec::<u8>::with_capacity(PAGE)));
    }
}

/// Says what is wrong with the arguments, or what help was asked for.
fn usage(error: &clap::Error) -> ExitCode {
    let json = std::env::args_os().any(|argument| argument == "--json");
    // `hearth sim` says 2 for runs that show nothing.
    let code = if std::env::args_os().nth(1).is_some_and(|verb| verb == "sim") { sim::USAGE } else { USAGE };
    if error.use_stderr() && json {
        let text = error.to_string();
        // What follows the first empty line says how it is typed.
        let what: Vec<&str> = text.lines().take_while(|line| !line.is_empty()).map(str::trim).collect();
        let message = what.join(" ");
        return output::failure(
            code,
            message.trim_start_matches("error: "),
            "see `hearth --help`, and `--help` of each verb",
            json,
        );
    }
    // Nobody may be there to read it.
    let _ = error.print();
    if error.use_stderr() { ExitCode::from(code) } else { ExitCode::SUCCESS }
}

async fn run(arguments: Arguments) -> ExitCode {
    match arguments.verb {
        Verb::Dev(arguments) => dev::dev(arguments).await,
        Verb::Serve(arguments) => serve::serve(arguments).await,
        Verb::Config(arguments) => serve::config(arguments),
        Verb::Ca(arguments) => ca::ca(arguments),
        Verb::Store(arguments) => store::store(arguments).await,
        Verb::Rebuild(arguments) => rebuild::rebuild(arguments).await,
        Verb::Region(arguments) => admin::region(arguments).await,
        Verb::Home(arguments) => admin::home(arguments).await,
        Verb::User(arguments) => admin::user(arguments).await,
        Verb::Parked(arguments) => admin::parked(arguments).await,
        Verb::Why(arguments) => why::why(arguments).await,
        Verb::Verify(arguments) => verify::verify(arguments).await,
        Verb::Audit(arguments) => admin::audit(arguments).await,
        Verb::Chat(arguments) => dev::chat(arguments).await,
        Verb::Bench(arguments) => bench::bench(arguments).await,
        // It takes one core and waits for nothing: the runtime is not used.
        Verb::Sim(arguments) => sim::sim(&arguments),
    }
}
