//! A replicator's first words to a destination: what it is there ([`super::standing`]), and, before it writes anything, the record
//! that says whose the prefix is. A region that returns is fenced and what only it has is saved, in this order, each before the
//! next.

use jiff::Timestamp;

use super::{
    Ownership, RegionError,
    own::Held,
    records,
    standing::{self, Standing, View},
};
use crate::{
    checkpoint::Checkpoint,
    client::Member,
    error::ReplicationError,
    options::prefixes,
    overlap::{links, record::Link},
    pipeline::Found,
    run::Context,
};

/// Who writes the records that no person asked for.
const ACTOR: &str = "replicator";

// === impl Context ===

impl Context {
    /// The epoch from which a region that returns begins anew; `None` for a replicator that follows as always.
    pub(crate) async fn stand(
        &self,
        source: &Member,
        destination: &Member,
        found: &Found,
        overwrite: bool,
    ) -> Result<Option<u64>, ReplicationError> {
        let cluster = &self.destination.cluster;
        let at_source = records::read_all(&self.source, source).await?;
        let at_destination = records::read_all(cluster, destination).await?;
        let (from, to) = prefixes(&self.options.rules);
        // No stream is excepted: one that was a link of two writers has a record to be deleted first.
        Link::is_alone("", &to, &links(cluster, destination).await?)?;
        let reverse = records::promoted_over(&self.source, source, destination.cluster, (&from, &to)).await?;
        let checkpoint = match found {
            None => None,
            Some((bytes, _)) => match Checkpoint::decode(bytes) {
                Ok(checkpoint) => Some(checkpoint),
                // Whoever is about to go on from it says what is wrong with it. Nothing is concluded from it here.
                Err(_) => return Ok(None),
            },
        };
        let view = View {
            source: source.cluster,
            destination: destination.cluster,
            prefixes: (&from, &to),
            checkpoint: checkpoint.as_ref(),
            reverse: reverse.as_ref(),
            at_source: &at_source,
            at_destination: &at_destination,
        };
        let Standing::Returns { epoch, safe } = standing::judge(&view, overwrite)? else { return Ok(None) };
        let region = self.region_there(source.cluster);
        self.fence(source, destination, epoch).await?;
        tracing::warn!(prefix = to, owner = %region, epoch, "a former owner returns; it is fenced");
        // As of after the fence.
        let (source, destination) = (self.source.connect().await?, cluster.connect().await?);
        let name = format!("divergent-{}-{epoch}-{}", self.options.stream, destination.cluster);
        match Box::pin(self.export(&source, &destination, reverse.as_ref(), name)).await? {
            None => tracing::info!(after = safe.0, "it has nothing that the owner has not"),
            Some(tail) => tracing::warn!(
                after = safe.0,
                keys = tail.keys,
                file = %tail.path.display(),
                "it has what the owner has not; that is saved before it is overwritten"
            ),
        }
        Ok(Some(epoch))
    }

    /// Before an operator has the destination overwritten: from now on its own writers are refused, and what it has and the source
    /// has not, or has with another value, is saved.
    pub(crate) async fn save_overwritten(
        &self,
        source: &Member,
        destination: &Member,
        epoch: u64,
    ) -> Result<(), ReplicationError> {
        self.fence(source, destination, epoch).await?;
        let (source, destination) = (self.source.connect().await?, self.destination.cluster.connect().await?);
        let name = format!("overwritten-{}-{}", self.options.stream, destination.cluster);
        if let Some(saved) = Box::pin(self.export(&source, &destination, None, name)).await? {
            let file = saved.path.display().to_string();
            tracing::warn!(
                keys = saved.keys,
                file,
                "the destination is overwritten, as asked; what it has is saved"
            );
        }
        Ok(())
    }

    /// Has the destination's record name the source, at this epoch or a later one.
    async fn fence(&self, source: &Member, destination: &Member, epoch: u64) -> Result<(), ReplicationError> {
        let (cluster, to) = (&self.destination.cluster, prefixes(&self.options.rules).1);
        let all = records::read_all(cluster, destination).await?;
        let before = records::of(&all, &to);
        let known = before.map(|held| (held.ownership.cluster, held.ownership.epoch));
        if let Some(Held { ownership, .. }) = before
            && ownership.cluster == source.cluster
            && ownership.epoch >= epoch
        {
            // The source has been the owner since, and whoever promoted it was cut off before it said so here.
            if ownership.pending && ownership.epoch == epoch {
                let told = Ownership { pending: false, ..ownership.clone() };
                let _told = records::replace(cluster, destination, (&to, before), &told, None).await?;
            }
            return Ok(());
        }
        let taken = known.map_or(0, |(owner, since)| since + u64::from(owner != source.cluster));
        let (region, epoch) = (self.region_there(source.cluster), epoch.max(taken));
        let owner = Ownership::new(region, source.cluster, epoch, ACTOR, Timestamp::now());
        match records::replace(cluster, destination, (&to, before), &owner, None).await? {
            Some(_) => Ok(()),
            None => Err(RegionError::Lost { prefix: to, actor: "somebody".to_owned(), epoch }.into()),
        }
    }

    /// Has the destination's record say whose the prefix is, and makes sure that the source does not say the same of us: of two
    /// links that begin at the same moment in opposite directions, at least one sees the other.
    pub(crate) async fn establish(
        &self,
        source: &Member,
        destination: &Member,
        checkpoint: &Checkpoint,
        fence: i64,
    ) -> Result<(), ReplicationError> {
        let cluster = &self.destination.cluster;
        let (from, to) = prefixes(&self.options.rules);
        let all = records::read_all(cluster, destination).await?;
        let before = records::of(&all, &to);
        let (known, epoch) =
            before.map_or((None, 0), |held| (Some(held.ownership.cluster), held.ownership.epoch));
        if known != Some(source.cluster) || epoch < checkpoint.epoch {
            let epoch = checkpoint.epoch.max(epoch + u64::from(known != Some(source.cluster)));
            let owner = Ownership::new(
                self.region_there(source.cluster),
                source.cluster,
                epoch,
                ACTOR,
                Timestamp::now(),
            );
            // Whoever else wrote it meanwhile wrote the checkpoint as well, or is about to.
            let ours = Some((&*self.options.checkpoint_key(), fence, None));
            let _written = records::replace(cluster, destination, (&to, before), &owner, ours).await?;
        }
        let at_source = records::read_all(&self.source, source).await?;
        let view = View {
            source: source.cluster,
            destination: destination.cluster,
            prefixes: (&from, &to),
            checkpoint: Some(checkpoint),
            reverse: None,
            at_source: &at_source,
            at_destination: &[],
        };
        let Err(error) = standing::judge(&view, false) else { return Ok(()) };
        if checkpoint.source_revision.0 == 0 {
            records::withdraw(cluster, destination, &to, (&self.options.checkpoint_key(), fence)).await?;
        }
        Err(error.into())
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;
    use zonebreak_drill::lab::{Etcd, Lab};

    use super::*;
    use crate::{
        options::{ClusterOptions, ReplicationOptions},
        region::own,
        revision::Revision,
        verify,
    };

    /// Two begin at the same moment: the one whose checkpoint was replaced meanwhile writes no record over the other's.
    #[tokio::test]
    async fn who_lost_the_destination_does_not_say_whose_the_prefix_is() {
        let lab = Lab::new().unwrap();
        let (source, destination) =
            tokio::join!(Etcd::start_named(&lab, "source"), Etcd::start_named(&lab, "destination"));
        let [from, to] = [source, destination].map(Result::unwrap);
        let [plain_from, plain_to] = [&from, &to].map(|etcd| ClusterOptions::plain([etcd.url()]));
        let options =
            ReplicationOptions::new("test", "/app/", plain_from, plain_to, lab.path().join("spool"));
        let context = verify::context(options).unwrap();
        let (source, here) = tokio::join!(context.source.connect(), context.destination.member());
        let (source, mut here) = (source.unwrap(), here.unwrap());
        let of = prefixes(&context.options.rules);
        let genesis = Checkpoint::genesis(source.cluster, here.cluster, of, Uuid::now_v7());
        let checkpoint = Checkpoint { source_revision: Revision(1), ..genesis };
        let mut take = async |checkpoint: &Checkpoint| {
            let written = here.client.put(context.options.checkpoint_key(), checkpoint.encode(), None).await;
            written.unwrap().header().unwrap().revision()
        };
        let ours = take(&checkpoint).await;
        let theirs = take(&Checkpoint { holder: Uuid::now_v7(), ..checkpoint.clone() }).await;
        let recorded = async || {
            let mut client = etcd_client::Client::connect([to.url()], None).await.unwrap();
            client.get(own::key("/app/"), None).await.unwrap().kvs().len()
        };
        let here = context.destination.member().await.unwrap();
        context.establish(&source, &here, &checkpoint, ours).await.unwrap();
        assert_eq!(recorded().await, 0);
        context.establish(&source, &here, &checkpoint, theirs).await.unwrap();
        assert_eq!(recorded().await, 1);
    }
}
