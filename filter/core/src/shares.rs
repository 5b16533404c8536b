//! Which share of the requests each zone should get: the usual shares, and what they become when zones keep only a part.
//! Arithmetic on fractions; how a share is brought about with Envoy's means is [`crate::picker`]'s matter.

use crate::{config::MAX_ZONES, policy::Mode};

/// A fraction of the requests for each zone, in the order of the service's zones.
pub type Shares = [f64; MAX_ZONES];

/// Share of the own zone in `eventual` mode, unless the policy has weights.
const OWN_SHARE: f64 = 0.8;

/// The most that a zone gets of what goes to other zones, as a multiple of its part by weight.
const MOST_LEAN: f64 = 1.5;

/// What is added to response times before they are compared, in ms: below that a difference is noise.
const LATENCY_GRAIN_MS: f64 = 5.0;

/// Steps in which weights that lean are told.
const LEAN_STEPS: f64 = 1000.0;

/// What the zones get when all is well. They sum to 1, if there is any zone.
///
/// - `strong`: all to the own zone but for what is explored, which goes to the others by weight of locality;
/// - `eventual`: by the policy's weights; without any, 80 % to the own zone and the rest to the others by weight of locality;
/// - no endpoints in the own zone, or no own zone known: by weight of locality.
pub fn usual(mode: Mode, own: Option<usize>, explore: f64, has_weights: bool, weights: &[u32]) -> Shares {
    let zones = weights.len().min(MAX_ZONES);
    match (own.filter(|own| *own < zones), mode) {
        (Some(own), _) if zones == 1 => only(own),
        (Some(own), Mode::Strong) => beside(own, 1.0 - explore, weights),
        (Some(own), Mode::Eventual) if !has_weights => beside(own, OWN_SHARE, weights),
        _ => normalised(weights, |_| true),
    }
}

/// Weights with which the other zones' parts lean to the faster of them: in proportion to weight / (typical response time +
/// 5 ms), and no zone more than one and a half times its part by weight. The own zone's weight, and with it the sum of the
/// others', stays as it is in proportion; a zone whose `typical` time (ms) is not known counts as the mean of the others.
pub fn lean(weights: &[u32], own: usize, typical: &[Option<f64>]) -> Vec<u32> {
    let by_weight = normalised(weights, |zone| zone != own);
    let speed = |ms: f64| 1.0 / (ms.max(0.0) + LATENCY_GRAIN_MS);
    let known = || typical.iter().enumerate().filter(|(zone, _)| *zone != own).filter_map(|(_, ms)| *ms);
    let mean = known().map(speed).sum::<f64>() / (known().count().max(1) as f64);
    let wanted = scaled(std::array::from_fn(|zone| {
        share_of(&by_weight, zone) * typical.get(zone).copied().flatten().map_or(mean, speed)
    }));
    let leaning = fill(&wanted, &by_weight.map(|part| part * MOST_LEAN));
    let others: f64 = weights.iter().enumerate().filter(|(i, _)| *i != own).map(|(_, w)| f64::from(*w)).sum();
    let lean = |(zone, weight): (usize, &u32)| match zone == own {
        true => f64::from(*weight) * LEAN_STEPS,
        // Where there is nothing to go by, they are left as they are.
        false if leaning.iter().sum::<f64>() <= 0.0 => f64::from(*weight) * LEAN_STEPS,
        false => share_of(&leaning, zone) * others.max(1.0) * LEAN_STEPS,
    };
    weights.iter().enumerate().map(|w| lean(w).round() as u32).collect()
}

/// How much of what is moved each zone may take, as a fraction of all that is: `headroom` times its capacity, over the capacity
/// that the zones which keep only a part have lost. Infinite where nothing is lost.
pub fn room(headroom: f64, capacities: &[u32], keep: &[f64]) -> Shares {
    let kept = |zone: usize| keep.get(zone).copied().unwrap_or_default();
    let capacity = |zone: usize| f64::from(capacities.get(zone).copied().unwrap_or_default());
    let lost: f64 = (0..keep.len()).map(|zone| capacity(zone) * (1.0 - kept(zone))).sum();
    std::array::from_fn(|zone| match kept(zone) >= 1.0 {
        true if lost > 0.0 => headroom * capacity(zone) / lost,
        true => f64::INFINITY,
        false => 0.0,
    })
}

/// Parts as wanted, but none above its limit: what one may not have goes to those that may, in proportion. They sum to what
/// was wanted, or to the limits' sum where that is less.
pub fn fill(wanted: &Shares, limits: &Shares) -> Shares {
    let (mut got, mut full) = (*wanted, [false; MAX_ZONES]);
    // Each round fills one zone up at least, or is the last.
    for _ in 0..MAX_ZONES {
        let mut over = 0.0;
        for ((got, full), limit) in got.iter_mut().zip(&mut full).zip(limits) {
            if *got >= *limit {
                over += *got - *limit;
                (*got, *full) = (*limit, true);
            }
        }
        let free: f64 = got.iter().zip(&full).filter(|(_, full)| !**full).map(|(got, _)| *got).sum();
        if over <= 0.0 || free <= 0.0 {
            break;
        }
        for (got, full) in got.iter_mut().zip(&full) {
            if !full {
                *got += over * *got / free;
            }
        }
    }
    got
}

/// What the zones get when each keeps only a part of its usual share. `None` when no zone keeps anything.
///
/// What is given up goes to the zones that keep everything, in proportion to their usual shares, or to their weights where
/// those shares are all 0 (`strong`). Where no zone keeps everything, those that keep something take it.
///
/// With [`room`], none is given more than its room of what is moved. Second comes what part of that has a place at all, 0 to 1;
/// the shares sum to 1 all the same.
pub fn target(usual: &Shares, keep: &[f64], weights: &[u32], room: Option<&Shares>) -> Option<(Shares, f64)> {
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
    let whole_left = (0..keep.len()).any(whole);
    let (takers, fits) = match room.filter(|_| whole_left) {
        None => (takers, 1.0),
        Some(room) => {
            let may = fill(&takers, room);
            let fits = may.iter().sum::<f64>().min(1.0);
            // Where nobody has room, all is refused, and whom it would have gone to does not matter.
            (if fits > 0.0 { scaled(may) } else { takers }, fits)
        }
    };
    for (share, taker) in shares.iter_mut().zip(takers) {
        *share += freed * taker;
    }
    Some((shares, fits))
}

/// The share of one zone; 0 beyond the last.
pub fn share_of(shares: &Shares, zone: usize) -> f64 {
    shares.get(zone).copied().unwrap_or_default()
}

/// A share for the own zone, the rest for the others by weight.
fn beside(own: usize, share: f64, weights: &[u32]) -> Shares {
    let others = normalised(weights, |zone| zone != own);
    std::array::from_fn(|zone| if zone == own { share } else { share_of(&others, zone) * (1.0 - share) })
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
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

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
        close(&usual(Mode::Strong, Some(1), 0.0, false, &[2, 2, 2]), &[0.0, 1.0]);
        close(&usual(Mode::Eventual, Some(0), 0.0, false, &[2, 1, 3]), &[0.8, 0.05, 0.15]);
        close(&usual(Mode::Eventual, Some(0), 0.0, true, &[1, 1, 2]), &[0.25, 0.25, 0.5]);
        close(&usual(Mode::Strong, None, 0.0, false, &[1, 3]), &[0.25, 0.75]);
        close(&usual(Mode::Strong, None, 0.0, true, &[0, 0]), &[0.5, 0.5]);
        close(&usual(Mode::Eventual, Some(0), 0.0, false, &[4]), &[1.0]);
        close(&usual(Mode::Strong, Some(0), 0.1, false, &[4, 1, 3]), &[0.9, 0.025, 0.075]);
        close(&usual(Mode::Strong, Some(0), 0.1, false, &[4]), &[1.0]);
    }

    #[test]
    fn freed_load_goes_where_load_usually_goes() {
        let to =
            |usual: &Shares, keep: &[f64], weights: &[u32]| target(usual, keep, weights, None).unwrap().0;
        let even = usual(Mode::Eventual, Some(0), 0.0, true, &[1, 1, 1]);
        close(&to(&even, &[0.0, 1.0, 1.0], &[1, 1, 1]), &[0.0, 0.5, 0.5]);
        let local = usual(Mode::Eventual, Some(0), 0.0, true, &[80, 10, 10]);
        close(&to(&local, &[1.0, 0.0, 1.0], &[80, 10, 10]), &[8.0 / 9.0, 0.0, 1.0 / 9.0]);
        close(&to(&local, &[0.3, 1.0, 1.0], &[80, 10, 10]), &[0.24, 0.38, 0.38]);
        let strong = usual(Mode::Strong, Some(0), 0.0, false, &[2, 1, 3]);
        close(&to(&strong, &[0.0, 1.0, 1.0], &[2, 1, 3]), &[0.0, 0.25, 0.75]);
        close(&to(&strong, &[0.5, 0.5, 0.0], &[2, 1, 3]), &[0.5 + 0.5 * 2.0 / 3.0, 0.5 / 3.0]);
        assert_eq!(target(&strong, &[0.0, 0.0, 0.0], &[2, 1, 3], None), None);
    }

    /// What two of three equal zones may take of the third.
    #[test]
    fn what_is_moved_is_bounded_by_headroom() {
        let strong = usual(Mode::Strong, Some(0), 0.0, false, &[1, 1, 1]);
        let fits = |headroom, capacities: &[u32], keep: &[f64]| {
            let room = room(headroom, capacities, keep);
            target(&strong, keep, &[1, 1, 1], Some(&room)).unwrap()
        };
        assert_eq!(
            fits(0.5, &[10, 10, 10], &[0.0, 1.0, 1.0]),
            ([0.0, 0.5, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0], 1.0)
        );
        assert_eq!(fits(0.25, &[10, 10, 10], &[0.0, 1.0, 1.0]).1, 0.5);
        assert_eq!(fits(0.25, &[10, 10, 10], &[0.5, 1.0, 1.0]).1, 1.0);
        assert_eq!(fits(0.0, &[10, 10, 10], &[0.0, 1.0, 1.0]).1, 0.0);
        // The smaller of the two is filled first, though the weights say half and half.
        let (shares, all) = fits(0.5, &[10, 5, 15], &[0.0, 1.0, 1.0]);
        close(&shares, &[0.0, 0.25, 0.75]);
        assert_eq!(all, 1.0);
    }

    #[test]
    fn faster_zones_are_leaned_to_within_bounds() {
        let parts = |typical: &[Option<f64>]| {
            let lean = lean(&[2, 1, 1, 1], 0, typical);
            lean[1..]
                .iter()
                .map(|w| f64::from(*w) / lean[1..].iter().map(|w| f64::from(*w)).sum::<f64>())
                .collect::<Vec<_>>()
        };
        let close = |got: Vec<f64>, wanted: [f64; 3]| {
            assert!(
                got.iter().zip(wanted).all(|(got, wanted)| (got - wanted).abs() < 0.001),
                "{got:?} is not {wanted:?}"
            );
        };
        close(parts(&[None; 4]), [1.0 / 3.0; 3]);
        close(parts(&[Some(1.0), Some(5.0), Some(5.0), Some(5.0)]), [1.0 / 3.0; 3]);
        // 1/10 to 1/15 to 1/15.
        close(parts(&[None, Some(5.0), Some(10.0), Some(10.0)]), [3.0 / 7.0, 2.0 / 7.0, 2.0 / 7.0]);
        // The fastest by far gets half, not nearly all; the others share the rest by their own speeds.
        close(parts(&[None, Some(0.0), Some(95.0), Some(195.0)]), [0.5, 1.0 / 3.0, 1.0 / 6.0]);
        let lean = lean(&[7, 3, 5], 0, &[None, Some(0.0), Some(100.0)]);
        assert_eq!((lean[0], lean[1] + lean[2]), (7_000, 8_000));
    }

    proptest! {
        #[test]
        fn shares_sum_to_one_and_none_is_negative(
            weights in prop::collection::vec(0_u32..100, 1..=8),
            keep in prop::collection::vec(prop_oneof![Just(0.0), Just(1.0), 0.0..1.0_f64], 8),
            own in prop::option::of(0_usize..8),
            strong: bool,
            explore in 0.0..0.5_f64,
            headroom in prop::option::of(0.0..3.0_f64),
            has_weights: bool,
        ) {
            let mode = if strong { Mode::Strong } else { Mode::Eventual };
            let keep = &keep[..weights.len()];
            let usual = usual(mode, own, explore, has_weights, &weights);
            prop_assert!((usual.iter().sum::<f64>() - 1.0).abs() < 1e-9);
            let room = headroom.map(|headroom| room(headroom, &weights, keep));
            match target(&usual, keep, &weights, room.as_ref()) {
                None => prop_assert!(keep.iter().all(|k| *k == 0.0)),
                Some((shares, fits)) => {
                    prop_assert!((0.0..=1.0).contains(&fits));
                    prop_assert!((shares.iter().sum::<f64>() - 1.0).abs() < 1e-9);
                    prop_assert!(shares.iter().all(|s| *s >= 0.0));
                    for (zone, k) in keep.iter().enumerate() {
                        prop_assert!(*k > 0.0 || shares[zone] == 0.0);
                    }
                }
            }
        }

        #[test]
        fn filling_respects_every_limit_and_loses_nothing_that_fits(
            wanted in prop::array::uniform8(0.0..1.0_f64),
            limits in prop::array::uniform8(prop_oneof![Just(0.0), Just(f64::INFINITY), 0.0..1.0_f64]),
        ) {
            let got = fill(&wanted, &limits);
            let sum = |parts: &Shares| parts.iter().sum::<f64>();
            let reachable: f64 = limits.iter().zip(&wanted).filter(|(_, w)| **w > 0.0).map(|(limit, _)| *limit).sum();
            prop_assert!(got.iter().zip(&limits).all(|(got, limit)| *got <= limit + 1e-9));
            prop_assert!((sum(&got) - sum(&wanted).min(reachable)).abs() < 1e-6, "{:?}", got);
        }
    }
}
