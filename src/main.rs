//! The `hearth` binary: arguments, exit codes, and nothing else.

mod arguments;
mod ca;
mod dev;
mod output;
mod serve;

use std::process::ExitCode;

use clap::Parser;

use crate::arguments::{Arguments, Verb};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // Another provider may be compiled in by a dependency some day: ours is chosen, first thing.
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        return output::failure(70, "another TLS provider was installed first", "this is a fault of the build", false);
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            return output::failure(70, &format!("no runtime: {error}"), "free some memory or threads", false);
        }
    };
    let code = runtime.block_on(run(arguments));
    // What still runs after everything was stopped is not waited for.
    runtime.shutdown_timeout(std::time::Duration::from_millis(200));
    code
}

async fn run(arguments: Arguments) -> ExitCode {
    match arguments.verb {
        Verb::Dev(arguments) => dev::dev(arguments).await,
        Verb::Serve(arguments) => serve::serve(arguments).await,
        Verb::Config(arguments) => serve::config(arguments),
        Verb::Ca(arguments) => ca::ca(arguments),
        Verb::Chat(arguments) => dev::chat(arguments).await,
        Verb::Bench(arguments) => dev::bench(arguments).await,
    }
}
