//! Waiting for a condition instead of for a time. Polls; never decides what a failure means.

use std::time::Duration;

use tokio::time::Instant;

use super::LabError;

/// Between two looks: short against anything a test measures, long against the cost of a look.
pub(super) const POLL: Duration = Duration::from_millis(20);

/// Looks until `check` succeeds, at most `limit` long. What `check` returns as an error is what was seen, and the last one
/// is part of the timeout's message. Its future stays on its thread (`check` may borrow): join it, don't spawn it.
pub async fn until<T>(
    what: &str,
    limit: Duration,
    mut check: impl AsyncFnMut() -> Result<T, String>,
) -> Result<T, LabError> {
    let deadline = Instant::now() + limit;
    let mut seen = "nothing: no look ended in time".to_owned();
    loop {
        // A look that ends counts even at the deadline; one that hangs is cut off there.
        match tokio::time::timeout_at(deadline, check()).await {
            Ok(Ok(found)) => return Ok(found),
            Ok(Err(other)) => seen = other,
            Err(_) => return Err(LabError::Timeout { what: what.to_owned(), limit, seen }),
        }
        if Instant::now() >= deadline {
            return Err(LabError::Timeout { what: what.to_owned(), limit, seen });
        }
        tokio::time::sleep(POLL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_returns_at_once_and_tells_what_was_seen_last() {
        let mut looks = 0;
        let found = until("three looks", Duration::from_secs(5), async || {
            looks += 1;
            if looks == 3 { Ok(looks) } else { Err(format!("look {looks}")) }
        });
        assert_eq!(found.await.unwrap(), 3);

        let never = until("the moon", Duration::from_millis(50), async || Err::<(), _>("clouds".to_owned()));
        let error = never.await.unwrap_err().to_string();
        assert_eq!(error, "see the moon within 50ms; last seen: clouds");
    }

    #[tokio::test]
    async fn a_look_that_hangs_is_cut_off() {
        let hangs = until("an answer", Duration::from_millis(50), async || {
            std::future::pending::<()>().await;
            Ok(())
        });
        assert!(matches!(hangs.await, Err(LabError::Timeout { .. })));
    }
}
