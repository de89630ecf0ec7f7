//! The router, among very many nodes in simulated time.

use crate::shared::simulation::Plan;

const NODES: usize = 50;

#[test]
fn on_a_good_day_all_meet_at_once_and_by_two_claims_at_most() {
    let report = Plan::quiet(NODES, 10_000, 20_000).run();
    assert_eq!((report.met, report.lost), (report.pairs, 0), "{report:#?}");
    assert!(report.quiet_claims.1 <= 2, "{report:#?}");
    let expected = 1.0 - 1.0 / NODES as f64;
    assert!((report.cross_share - expected).abs() < 0.01, "{report:#?}");
    assert!(report.quiet.most < 500, "{report:#?}");
}

#[test]
fn nobody_is_lost_whatever_goes_wrong_and_who_is_spared_does_not_notice() {
    let report = Plan::troubled(NODES, 20_000, 20_000).run();
    assert_eq!((report.met, report.lost), (report.pairs, 0), "{report:#?}");
    assert!(report.met_again > 50, "nodes were killed: {report:#?}");
    assert!(report.quiet_claims.1 <= 2, "{report:#?}");
    assert!(report.quiet.p999 < 250, "{report:#?}");
}

#[test]
fn the_same_seed_gives_the_same_and_another_one_another() {
    let plan = Plan::troubled(10, 4_000, 4_000);
    let report = plan.run();
    assert_eq!(plan.run(), report);
    assert_ne!(Plan { seed: 2, ..plan }.run(), report);
}
