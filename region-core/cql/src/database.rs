//! The session: what is asked of the server, and what its answers mean.

use std::future::Future;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, StreamExt as _, TryStreamExt as _, stream};
use region_model::ports::StoreError;
use scylla::client::session::Session;
use scylla::deserialize::row::DeserializeRow;
use scylla::response::query_result::QueryResult;
use scylla::response::{PagingState, PagingStateResponse};
use scylla::statement::batch::{Batch, BatchType};
use scylla::statement::prepared::PreparedStatement;
use scylla::statement::{Consistency, SerialConsistency};
use scylla::value::{CqlValue, Row};

use crate::outage::{Failed, Outages, Pauses};
use crate::statements::Statements;
use crate::values::Values;

/// Writes and reads of one call that are under way at a time.
const AT_ONCE: usize = 32;
/// How often a conditional write is asked for whose answer did not come, while the store is opened. Later as often as it
/// takes.
const ATTEMPTS: u32 = 6;

/// A statement and its values.
pub(crate) type Write<'a> = (&'a PreparedStatement, Values);

/// What became of a conditional write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cas {
    /// It is done.
    Applied,
    /// The condition did not hold.
    Refused,
}

/// What a read after a lost answer showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// The write is there.
    Done,
    /// What the condition names is there still: the write may be asked for again.
    NotYet,
    /// Something else is there: the write was not done, and cannot be any more.
    Never,
    /// Something else is there, and it does not say what became of the write.
    Unclear,
}

#[derive(Debug)]
pub(crate) struct Database {
    pub(crate) session: Session,
    pub(crate) statements: Statements,
    pub(crate) outages: Outages,
}

/// Runs all, some at a time; their results in their order, or the first error.
pub(crate) async fn all<'a, T>(
    futures: impl Iterator<Item = impl Future<Output = Result<T, StoreError>> + Send + 'a>,
) -> Result<Vec<T>, StoreError> {
    // Boxed: the compiler does not see through closures over references that a task is to send.
    let futures: Vec<BoxFuture<'a, Result<T, StoreError>>> = futures.map(|future| future.boxed()).collect();
    stream::iter(futures).buffered(AT_ONCE).try_collect().await
}

/// An answer of a form that this build does not know: the schema is another one.
pub(crate) fn unreadable(what: impl std::fmt::Display) -> StoreError {
    StoreError::Unavailable(Arc::from(format!("the CQL store answered what this build does not read: {what}")))
}

/// Whether a conditional write was done, by the names of the columns and the first row. Cassandra answers `[applied]`
/// first and what is there only where it was not done, ScyllaDB a row for each statement with all columns always: the
/// name alone says which column it is, and all rows say the same.
pub(crate) fn applied(names: &[&str], first: &[Option<CqlValue>]) -> Option<bool> {
    let place = names.iter().position(|name| *name == "[applied]")?;
    match first.get(place)? {
        Some(CqlValue::Boolean(applied)) => Some(*applied),
        _ => None,
    }
}

fn read_applied(result: QueryResult) -> Result<bool, StoreError> {
    let rows = result.into_rows_result().map_err(unreadable)?;
    let first: Row = rows.first_row().map_err(unreadable)?;
    let names: Vec<&str> = rows.column_specs().iter().map(|spec| spec.name()).collect();
    applied(&names, &first.columns).ok_or_else(|| unreadable("a conditional write without [applied]"))
}

impl Database {
    /// Asks for one statement until it is answered: a read, or a write whose timestamp says when it was.
    async fn execute(&self, statement: &PreparedStatement, values: Values) -> Result<QueryResult, StoreError> {
        self.outages.sending(std::slice::from_ref(&values));
        self.outages.repeated(|| self.session.execute_unpaged(statement, &values)).await
    }

    /// One write, or one read whose rows nobody wants.
    pub(crate) async fn run(&self, statement: &PreparedStatement, values: Values) -> Result<(), StoreError> {
        self.execute(statement, values).await.map(drop)
    }

    /// Many, in no order: where their order matters their timestamps say it.
    pub(crate) async fn run_all(&self, writes: Vec<Write<'_>>) -> Result<(), StoreError> {
        all(writes.into_iter().map(|(statement, values)| self.run(statement, values))).await.map(drop)
    }

    /// The rows of a read that bounds them itself.
    pub(crate) async fn rows<R>(&self, statement: &PreparedStatement, values: Values) -> Result<Vec<R>, StoreError>
    where
        R: for<'frame> DeserializeRow<'frame, 'frame>,
    {
        let rows = self.execute(statement, values).await?.into_rows_result().map_err(unreadable)?;
        rows.rows::<R>().map_err(unreadable)?.map(|row| row.map_err(unreadable)).collect()
    }

    /// The first row.
    pub(crate) async fn row<R>(&self, statement: &PreparedStatement, values: Values) -> Result<Option<R>, StoreError>
    where
        R: for<'frame> DeserializeRow<'frame, 'frame>,
    {
        Ok(self.rows(statement, values).await?.into_iter().next())
    }

    /// One page, and where the next begins.
    pub(crate) async fn page<R>(
        &self,
        statement: &PreparedStatement,
        from: PagingState,
    ) -> Result<(Vec<R>, Option<PagingState>), StoreError>
    where
        R: for<'frame> DeserializeRow<'frame, 'frame>,
    {
        let page = self.outages.repeated(|| self.session.execute_single_page(statement, (), from.clone())).await;
        let (result, next) = page?;
        let rows = result.into_rows_result().map_err(unreadable)?;
        let rows =
            rows.rows::<R>().map_err(unreadable)?.map(|row| row.map_err(unreadable)).collect::<Result<_, _>>()?;
        let next = match next {
            PagingStateResponse::HasMorePages { state } => Some(state),
            PagingStateResponse::NoMorePages => None,
        };
        Ok((rows, next))
    }

    /// One batch of one partition, whole or not at all.
    pub(crate) async fn together(&self, writes: Vec<Write<'_>>) -> Result<(), StoreError> {
        let (mut batch, values) = batch_of(writes);
        batch.set_is_idempotent(true);
        self.outages.sending(&values);
        self.outages.repeated(|| self.session.batch(&batch, &values)).await.map(drop)
    }

    /// A batch of one partition, at least one statement of which is conditional. It may be asked for again as often as
    /// wanted, since what it does ends what its condition names. An answer that does not come is looked for by `look`,
    /// which reads at `LocalSerial`: that ends what is under way, so that the next attempt decides.
    pub(crate) async fn compare_and_set<F: Future<Output = Result<Seen, StoreError>>>(
        &self,
        writes: Vec<Write<'_>>,
        look: impl Fn() -> F,
    ) -> Result<Cas, StoreError> {
        let (mut batch, values) = batch_of(writes);
        batch.set_serial_consistency(Some(SerialConsistency::LocalSerial));
        let asking = async {
            let mut pauses = Pauses::within(ATTEMPTS);
            let mut lost = false;
            loop {
                self.outages.round();
                self.outages.sending(&values);
                let answer = match self.outages.request(Box::pin(self.session.batch(&batch, &values))).await {
                    Ok(result) => Some(read_applied(result)?),
                    Err(Failed::Passing) => None,
                    Err(Failed::Final(error)) => return Err(error),
                };
                match answer {
                    Some(true) => return Ok(Cas::Applied),
                    Some(false) if !lost => return Ok(Cas::Refused),
                    Some(false) | None => lost = true,
                }
                match look().await {
                    Ok(Seen::Done) => return Ok(Cas::Applied),
                    Ok(Seen::Never) => return Ok(Cas::Refused),
                    Ok(Seen::Unclear) => return Err(StoreError::Unknown),
                    Ok(Seen::NotYet) | Err(StoreError::Unknown) => {}
                    Err(error @ StoreError::Unavailable(_)) => return Err(error),
                }
                self.outages.pause(&mut pauses).await?;
            }
        };
        self.outages.outlast(asking).await
    }
}

fn batch_of(writes: Vec<Write<'_>>) -> (Batch, Vec<Values>) {
    let mut batch = Batch::new(BatchType::Unlogged);
    batch.set_consistency(Consistency::LocalQuorum);
    let mut values = Vec::with_capacity(writes.len());
    for (statement, row) in writes {
        batch.append_statement(statement.clone());
        values.push(row);
    }
    (batch, values)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What Apache Cassandra 5.0.4 answered to the batch of an append, and the shape that ScyllaDB documents for one.
    #[test]
    fn whether_it_was_applied_is_read_by_name_in_the_answers_of_both_servers() {
        let truth = |value| Some(CqlValue::Boolean(value));
        let big = |value| Some(CqlValue::BigInt(value));
        assert_eq!(applied(&["[applied]"], &[truth(true)]), Some(true));
        let names = ["[applied]", "log", "bucket", "sequence", "change", "epoch", "head"];
        let row = [truth(false), None, big(0), None, big(8), big(1), big(4)];
        assert_eq!(applied(&names, &row), Some(false));
        let scylla = ["[applied]", "log", "bucket", "sequence", "change", "epoch", "entry", "head"];
        assert_eq!(applied(&scylla, &[truth(true), None, None, None, None, None, None, None]), Some(true));
        assert_eq!(applied(&["head", "[applied]"], &[big(1), truth(false)]), Some(false), "the place means nothing");
        assert_eq!(applied(&["applied"], &[truth(true)]), None);
        assert_eq!(applied(&["[applied]"], &[big(1)]), None);
    }
}
