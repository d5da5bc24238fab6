//! Runs seeds and prints one line each: `cargo run --release -p simulation --example seeds -- FROM COUNT SECONDS`.

use simulation::{Plan, Size, run};

fn main() {
    let mut numbers = std::env::args().skip(1).filter_map(|argument| argument.parse::<u64>().ok());
    let (from, count) = (numbers.next().unwrap_or(1), numbers.next().unwrap_or(1));
    let size = Size { seconds: numbers.next().unwrap_or(120), ..Size::default() };
    for seed in from..from + count {
        let ran = run(&Plan::new(seed, size));
        println!("{}", serde_json::to_string(&ran).unwrap_or_default());
        if count == 1 {
            println!("{:?}", ran.steps);
        }
    }
}
