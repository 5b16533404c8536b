//! Whether this etcd's region may write: replication leaves a record of who owns a prefix beside its checkpoints, and every write
//! of ours compares it in its transaction. Reads records; writes none.
//!
//! A record names the owner's etcd by cluster ID, so nobody has to be told what region this is. No record: nobody replicates
//! here, everybody may write. A user who may not read the records is not held back by them.

use etcd_client::{Client, Compare, CompareOp, GetOptions};
use serde::Deserialize;

use crate::etcd::{EtcdError, EtcdOptions, within};

/// What the keys of all records start with: a contract with the replicators.
const ROOT: &str = "/zonebreak/v1/replication/own/";

/// What of a record counts here.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Record {
    region: String,
    cluster: String,
    epoch: u64,
}

/// Who owns what, as of one revision of an etcd.
#[derive(Debug, Clone)]
pub(crate) struct Ground {
    revision: i64,
    /// This etcd, as records write it.
    cluster: String,
    /// By prefix.
    records: Vec<(String, Record)>,
    readable: bool,
}

// === impl EtcdOptions ===

impl EtcdOptions {
    /// Reads who owns what.
    pub(crate) async fn ground(&self, client: &Client) -> Result<Ground, EtcdError> {
        let options = GetOptions::new().with_prefix();
        let answer = match within(self.request_timeout, client.kv_client().get(ROOT, Some(options))).await {
            Err(EtcdError::Denied(_)) => {
                return Ok(Ground {
                    revision: 0,
                    cluster: String::new(),
                    records: Vec::new(),
                    readable: false,
                });
            }
            other => other?,
        };
        let (mut records, header) = (Vec::new(), answer.header());
        for kv in answer.kvs() {
            let key = String::from_utf8_lossy(kv.key());
            let record = serde_json::from_slice(kv.value()).map_err(|error| {
                EtcdError::Failed(format!("the ownership record {key} cannot be read: {error}"))
            })?;
            records.push((key.strip_prefix(ROOT).unwrap_or_default().to_owned(), record));
        }
        Ok(Ground {
            revision: header.map_or(0, etcd_client::ResponseHeader::revision),
            cluster: format!("{:x}", header.map_or(0, etcd_client::ResponseHeader::cluster_id)),
            records,
            readable: true,
        })
    }
}

// === impl Ground ===

impl Ground {
    /// Whether the key may be written here.
    ///
    /// # Errors
    /// [`EtcdError::NotOwner`].
    pub(crate) fn check(&self, key: &str) -> Result<(), EtcdError> {
        let foreign = |(prefix, record): &&(String, Record)| {
            key.starts_with(prefix.as_str()) && record.cluster != self.cluster
        };
        match self.records.iter().find(foreign) {
            None => Ok(()),
            Some((prefix, record)) => Err(EtcdError::NotOwner {
                key: key.to_owned(),
                prefix: prefix.clone(),
                region: record.region.clone(),
                epoch: record.epoch,
            }),
        }
    }

    /// That nothing of this has changed when the transaction is carried out.
    pub(crate) fn unchanged(&self) -> Option<Compare> {
        let next = self.revision.saturating_add(1);
        self.readable.then(|| Compare::mod_revision(ROOT, CompareOp::Less, next).with_prefix())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ground(records: &[(&str, &str)]) -> Ground {
        let record = |(prefix, cluster): &(&str, &str)| {
            let record = Record { region: "east".to_owned(), cluster: (*cluster).to_owned(), epoch: 2 };
            ((*prefix).to_owned(), record)
        };
        let records = records.iter().map(record).collect();
        Ground { revision: 7, cluster: "a".to_owned(), records, readable: true }
    }

    #[test]
    fn a_key_may_be_written_unless_a_record_of_its_prefix_names_another_etcd() {
        let key = "/zonebreak/v1/shifts/az-a";
        ground(&[]).check(key).unwrap();
        ground(&[("/zonebreak/v1/", "a"), ("/other/", "b")]).check(key).unwrap();
        for prefix in ["/zonebreak/v1/", "/zonebreak/v1/shifts/", "/"] {
            let error = ground(&[(prefix, "b")]).check(key).unwrap_err();
            assert!(error.to_string().contains("region east owns"), "{error}");
        }
    }
}
