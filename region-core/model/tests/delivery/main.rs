//! Where a message is on its way: the books of steps, and what follows from what regions know.

mod books;
mod verdicts;
