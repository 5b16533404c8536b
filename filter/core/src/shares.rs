//! Which share of the requests each zone should get: the usual shares, and what they become when zones keep only a part.
//! Arithmetic on fractions; how a share is brought about with Envoy's means is [`crate::picker`]'s matter.

use crate::{config::MAX_ZONES, policy::Mode};

/// A fraction of the requests for each zone, in the order of the service's zones.
pub type Shares = [f64; MAX_ZONES];

/// Share of the own zone in `eventual` mode, unless the policy has weights.
const OWN_SHARE: f64 = 0.8;

/// What the zones get when all is well. They sum to 1, if there is any zone.
///
/// - `strong`: all to the own zone;
/// - `eventual`: by the policy's weights; without any, 80 % to the own zone and the rest to the others by weight of locality;
/// - no endpoints in the own zone, or no own zone known: by weight of locality.
pub fn usual(mode: Mode, own: Option<usize>, has_weights: bool, weights: &[u32]) -> Shares {
    let zones = weights.len().min(MAX_ZONES);
    let own = own.filter(|own| *own < zones);
    match (own, mode) {
        (Some(own), Mode::Strong) => only(own),
        (Some(own), Mode::Eventual) if zones == 1 => only(own),
        (Some(own), Mode::Eventual) if !has_weights => {
            let others = normalised(weights, |zone| zone != own);
            let mut shares = others.map(|share| share * (1.0 - OWN_SHARE));
            if let Some(share) = shares.get_mut(own) {
                *share = OWN_SHARE;
            }
            shares
        }
        _ => normalised(weights, |_| true),
    }
}

/// What the zones get when each keeps only a part of its usual share. `None` when no zone keeps anything.
///
/// What is given up goes to the zones that keep everything, in proportion to their usual shares, or to their weights where
/// those shares are all 0 (`strong`). Where no zone keeps everything, those that keep something take it.
pub fn target(usual: &Shares, keep: &[f64], weights: &[u32]) -> Option<Shares> {
    let mut shares = [0.0; MAX_ZONES];
    for ((share, usual), keep) in shares.iter_mut().zip(usual).zip(keep) {
        *share = usual * keep.clamp(0.0, 1.0);
    }
    let freed = 1.0 - shares.iter().sum::<f64>();
    let kept = |zone: usize| keep.get(zone).copied().unwrap_or_default();
    let whole = |zone: usize| kept(zone) >= 1.0;
    let takers = match () {
        () if (0..keep.len()).any(|zone| whole(zone) && share_of(usual, zone) > 0.0) => {
            scaled(std::array::from_fn(|zone| if whole(zone) { share_of(usual, zone) } else { 0.0 }))
        }
        () if (0..keep.len()).any(whole) => normalised(weights, whole),
        () => {
            let by_weight = normalised(weights, |zone| kept(zone) > 0.0);
            scaled(std::array::from_fn(|zone| share_of(&by_weight, zone) * kept(zone)))
        }
    };
    if takers.iter().sum::<f64>() <= 0.0 {
        return None;
    }
    for (share, taker) in shares.iter_mut().zip(takers) {
        *share += freed * taker;
    }
    Some(shares)
}

/// The share of one zone; 0 beyond the last.
pub fn share_of(shares: &Shares, zone: usize) -> f64 {
    shares.get(zone).copied().unwrap_or_default()
}

fn only(zone: usize) -> Shares {
    std::array::from_fn(|i| if i == zone { 1.0 } else { 0.0 })
}

/// Shares by weight among the zones that count; equal ones where all those weights are 0, as Envoy does then.
fn normalised(weights: &[u32], counts: impl Fn(usize) -> bool) -> Shares {
    let weigh = |zone: usize, least: f64| match weights.get(zone) {
        Some(weight) if counts(zone) => f64::from(*weight).max(least),
        _ => 0.0,
    };
    let by_weight = scaled(std::array::from_fn(|zone| weigh(zone, 0.0)));
    if by_weight.iter().sum::<f64>() > 0.0 {
        by_weight
    } else {
        scaled(std::array::from_fn(|zone| weigh(zone, 1.0)))
    }
}

fn scaled(parts: Shares) -> Shares {
    let sum: f64 = parts.iter().sum();
    if sum > 0.0 { parts.map(|part| part / sum) } else { parts }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn close(shares: &Shares, wanted: &[f64]) {
        for (i, share) in shares.iter().enumerate() {
            let wanted = wanted.get(i).copied().unwrap_or_default();
            assert!((share - wanted).abs() < 1e-9, "{shares:?} is not {wanted:?}");
        }
    }

    #[test]
    fn usual_shares_follow_the_mode() {
        close(&usual(Mode::Strong, Some(1), false, &[2, 2, 2]), &[0.0, 1.0]);
        close(&usual(Mode::Eventual, Some(0), false, &[2, 1, 3]), &[0.8, 0.05, 0.15]);
        close(&usual(Mode::Eventual, Some(0), true, &[1, 1, 2]), &[0.25, 0.25, 0.5]);
        close(&usual(Mode::Strong, None, false, &[1, 3]), &[0.25, 0.75]);
        close(&usual(Mode::Strong, None, true, &[0, 0]), &[0.5, 0.5]);
        close(&usual(Mode::Eventual, Some(0), false, &[4]), &[1.0]);
    }

    #[test]
    fn freed_load_goes_where_load_usually_goes() {
        let even = usual(Mode::Eventual, Some(0), true, &[1, 1, 1]);
        close(&target(&even, &[0.0, 1.0, 1.0], &[1, 1, 1]).unwrap(), &[0.0, 0.5, 0.5]);
        let local = usual(Mode::Eventual, Some(0), true, &[80, 10, 10]);
        close(&target(&local, &[1.0, 0.0, 1.0], &[80, 10, 10]).unwrap(), &[8.0 / 9.0, 0.0, 1.0 / 9.0]);
        close(&target(&local, &[0.3, 1.0, 1.0], &[80, 10, 10]).unwrap(), &[0.24, 0.38, 0.38]);
        let strong = usual(Mode::Strong, Some(0), false, &[2, 1, 3]);
        close(&target(&strong, &[0.0, 1.0, 1.0], &[2, 1, 3]).unwrap(), &[0.0, 0.25, 0.75]);
        close(&target(&strong, &[0.5, 0.5, 0.0], &[2, 1, 3]).unwrap(), &[0.5 + 0.5 * 2.0 / 3.0, 0.5 / 3.0]);
        assert_eq!(target(&strong, &[0.0, 0.0, 0.0], &[2, 1, 3]), None);
    }

    proptest! {
        #[test]
        fn shares_sum_to_one_and_none_is_negative(
            weights in prop::collection::vec(0_u32..100, 1..=8),
            keep in prop::collection::vec(prop_oneof![Just(0.0), Just(1.0), 0.0..1.0_f64], 8),
            own in prop::option::of(0_usize..8),
            strong: bool,
            has_weights: bool,
        ) {
            let mode = if strong { Mode::Strong } else { Mode::Eventual };
            let keep = &keep[..weights.len()];
            let usual = usual(mode, own, has_weights, &weights);
            prop_assert!((usual.iter().sum::<f64>() - 1.0).abs() < 1e-9);
            match target(&usual, keep, &weights) {
                None => prop_assert!(keep.iter().all(|k| *k == 0.0)),
                Some(shares) => {
                    prop_assert!((shares.iter().sum::<f64>() - 1.0).abs() < 1e-9);
                    prop_assert!(shares.iter().all(|s| *s >= 0.0));
                    for (zone, k) in keep.iter().enumerate() {
                        prop_assert!(*k > 0.0 || shares[zone] == 0.0);
                    }
                }
            }
        }
    }
}
