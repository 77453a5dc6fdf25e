use proptest::prelude::*;

use super::*;

/// Rows by relation, and by edge the share of pairs that it keeps.
struct Invented {
    rows: Vec<f64>,
    shares: Vec<(Relations, f64)>,
}

impl Sizes for Invented {
    fn rows(&self, set: Relations) -> f64 {
        let rows = set.iter().map(|relation| self.rows[relation]).product::<f64>();
        self.shares.iter().filter(|(needs, _)| set.contains(*needs)).map(|(_, share)| share).product::<f64>() * rows
    }

    fn width(&self, set: Relations) -> f64 {
        8.0 * set.len() as f64
    }

    fn broadcast_bytes(&self) -> f64 {
        1e6
    }
}

fn graph(relations: usize, edges: &[(&[usize], &[usize])]) -> Graph {
    let set = |side: &[usize]| side.iter().copied().collect::<Relations>();
    let edge = |(left, right): &(&[usize], &[usize])| Edge { left: set(left), right: set(right), hashed: true };
    Graph { lookups: vec![None; relations], edges: edges.iter().map(edge).collect() }
}

fn sizes(rows: &[f64], graph: &Graph, shares: &[f64]) -> Invented {
    let needs = graph.edges.iter().map(|edge| edge.left | edge.right);
    Invented { rows: rows.to_vec(), shares: needs.zip(shares.iter().copied()).collect() }
}

/// The cost of the cheapest of all trees, products included only if there is no other.
fn least_cost(graph: &Graph, sizes: &dyn Sizes, set: Relations) -> Option<f64> {
    if set.len() == 1 {
        return Some(0.0);
    }
    let sides = set.subsets().filter(|side| side.len() < set.len() && side.has(set.first()));
    let costs = sides.filter_map(|side| {
        let other = set.without(side);
        let link = graph.link(side, other);
        let linked = !matches!(link, Link::Forbidden | Link::Cross);
        let join = linked.then(|| join_cost(link, sizes, (side, sizes.rows(side)), (other, sizes.rows(other)), sizes.rows(set)))?;
        Some(least_cost(graph, sizes, side)? + least_cost(graph, sizes, other)? + join)
    });
    costs.min_by(f64::total_cmp)
}

#[test]
fn subsets_come_before_what_contains_them() {
    let set = [0, 2, 63].into_iter().collect::<Relations>();
    let subsets: Vec<_> = set.subsets().map(|subset| subset.iter().collect::<Vec<_>>()).collect();
    assert_eq!(subsets, [vec![0], vec![2], vec![0, 2], vec![63], vec![0, 63], vec![2, 63], vec![0, 2, 63]]);
    assert_eq!(Relations::default().subsets().count(), 0);
}

#[test]
fn a_chain_starts_at_its_selective_end() {
    // Written from the large end; the last relation leaves a hundredth of its neighbour, and so on.
    let chain = graph(4, &[(&[0], &[1]), (&[1], &[2]), (&[2], &[3])]);
    let rows = sizes(&[1e6, 1e5, 1e4, 1.0], &chain, &[1e-5, 1e-4, 1e-2]);
    let tree = cheapest(&chain, &rows).unwrap();
    let expected = Tree::join(Tree::join(Tree::join(Tree::Leaf(3), Tree::Leaf(2)), Tree::Leaf(1)), Tree::Leaf(0));
    assert_eq!(tree, expected);
}

#[test]
fn two_filtered_ends_meet_in_the_middle() {
    // Both facts are small after their dimensions: only a bushy tree reduces both before they meet.
    let bushy = graph(4, &[(&[0], &[1]), (&[1], &[2]), (&[2], &[3])]);
    let rows = sizes(&[10.0, 1e6, 1e6, 10.0], &bushy, &[1e-5, 1e-4, 1e-5]);
    let Some(Tree::Join(left, right)) = cheapest(&bushy, &rows) else { panic!("four relations are joined") };
    let halves = [left.relations(), right.relations()];
    assert!(halves.contains(&[0, 1].into_iter().collect()) && halves.contains(&[2, 3].into_iter().collect()), "{halves:?}");
}

#[test]
fn lookups_wait_for_what_they_ask_of() {
    // 3 asks of 1 and keeps a hundredth of its rows: it comes as soon as 1 is there, and never first.
    let mut star = graph(4, &[(&[0], &[1]), (&[0], &[2]), (&[1], &[3])]);
    star.lookups[3] = Some(Relations::one(1));
    let rows = Invented {
        rows: vec![1e6, 1e5, 1e3, 0.01],
        shares: vec![([0, 1].into_iter().collect(), 1e-5), ([0, 2].into_iter().collect(), 1e-3)],
    };
    let tree = cheapest(&star, &rows).unwrap();
    fn has(tree: &Tree, wanted: Relations) -> bool {
        tree.relations() == wanted || matches!(tree, Tree::Join(left, right) if has(left, wanted) || has(right, wanted))
    }
    assert!(has(&tree, [1, 3].into_iter().collect()), "{tree:?}");
    assert!(!has(&tree, [0, 3].into_iter().collect()) && !has(&tree, [2, 3].into_iter().collect()), "{tree:?}");
}

#[test]
fn products_are_made_only_where_nothing_joins() {
    let apart = graph(4, &[(&[0], &[1]), (&[2], &[3])]);
    let rows = sizes(&[100.0, 10.0, 1000.0, 2.0], &apart, &[0.1, 0.5]);
    let Some(Tree::Join(left, right)) = cheapest(&apart, &rows) else { panic!("four relations are joined") };
    assert_eq!([left.relations().len(), right.relations().len()], [2, 2]);
    // A condition on the sum of two relations needs their product.
    let sum = graph(3, &[(&[0, 1], &[2])]);
    let tree = cheapest(&sum, &sizes(&[5.0, 5.0, 1e3], &sum, &[1e-2])).unwrap();
    assert_eq!(tree.relations().len(), 3);
}

#[test]
fn written_products_go_and_written_joins_stay() {
    let chain = graph(3, &[(&[0], &[1]), (&[1], &[2])]);
    let crossed = Tree::join(Tree::join(Tree::Leaf(0), Tree::Leaf(2)), Tree::Leaf(1));
    let joined = Tree::join(Tree::join(Tree::Leaf(0), Tree::Leaf(1)), Tree::Leaf(2));
    assert_eq!(crossed.without_needless_cross(&chain), joined);
    assert_eq!(joined.without_needless_cross(&chain), joined);
    let bushy = Tree::join(Tree::Leaf(2), Tree::join(Tree::Leaf(1), Tree::Leaf(0)));
    assert_eq!(bushy.without_needless_cross(&chain), bushy);
}

#[test]
fn joins_that_two_trees_make_count_for_neither() {
    // A lookup of a hundred million rows comes last either way.
    let mut star = graph(4, &[(&[0], &[1]), (&[0], &[2]), (&[0], &[3])]);
    star.lookups[3] = Some(Relations::one(0));
    let rows = sizes(&[1e6, 1e5, 1e3, 1e8], &star, &[1e-5, 1e-4, 1e-8]);
    let last = |first: usize, second: usize| {
        let joined = Tree::join(Tree::join(Tree::Leaf(0), Tree::Leaf(first)), Tree::Leaf(second));
        Tree::join(joined, Tree::Leaf(3))
    };
    let (good, bad) = (last(2, 1), last(1, 2));
    assert!(good.cost_beside(&bad, &star, &rows) < 0.8 * bad.cost_beside(&good, &star, &rows));
    let nothing = Tree::Leaf(0);
    assert!(good.cost_beside(&nothing, &star, &rows) > 0.9 * bad.cost_beside(&nothing, &star, &rows));
    assert_eq!(good.cost_beside(&good, &star, &rows), 0.0);
}

#[test]
fn many_relations_and_many_edges_take_bounded_work() {
    // A clique of 12 has 261,625 joins, and 60 relations in a chain far more sets than the exact search may see.
    let pairs: Vec<(usize, usize)> = (0..12).flat_map(|a| (0..a).map(move |b| (a, b))).collect();
    let edge = |(a, b): &(usize, usize)| Edge { left: Relations::one(*a), right: Relations::one(*b), hashed: true };
    let clique = Graph { lookups: vec![None; 12], edges: pairs.iter().map(edge).collect() };
    let long = Graph { lookups: vec![None; 60], edges: (1..60).map(|a| edge(&(a, a - 1))).collect() };
    for graph in [clique, long] {
        let rows: Vec<f64> = (0..graph.len()).map(|relation| 10.0 + (relation * 7 % 13) as f64 * 100.0).collect();
        let shares = vec![1e-2; graph.edges.len()];
        let invented = sizes(&rows, &graph, &shares);
        let mut search = Search::new(&graph, &invented);
        if graph.len() <= EXACT_RELATIONS_MAX {
            search.exact();
            assert!(search.joins <= EXACT_JOINS_MAX + 1, "{}", search.joins);
        }
        assert_eq!(cheapest(&graph, &invented).unwrap().relations(), Relations::before(graph.len()));
    }
}

proptest! {
    #[test]
    fn exact_search_finds_what_trying_all_trees_finds(
        rows in prop::collection::vec(1.0..1e6f64, 2..7),
        links in prop::collection::vec((0usize..6, 0usize..6, 1e-6..1.0f64), 0..9),
        lookup in prop::option::of((1usize..6, 0usize..6)),
    ) {
        let count = rows.len();
        // A tree of edges, so that everything is connected, and some more.
        let spanning = (1..count).map(|relation| (relation, relation / 2, 1.0 / rows[relation]));
        let all: Vec<_> = spanning.chain(links.into_iter().map(|(a, b, share)| (a % count, b % count, share))).collect();
        let all: Vec<_> = all.into_iter().filter(|(a, b, _)| a != b).collect();
        let mut graph = Graph { lookups: vec![None; count], ..Graph::default() };
        let lookup = lookup.map(|(relation, asked)| (relation % count, asked % count)).filter(|(relation, asked)| relation != asked);
        if let Some((relation, asked)) = lookup {
            graph.lookups[relation] = Some(Relations::one(asked));
        }
        let mut shares = Vec::new();
        for (a, b, share) in all {
            // Only its own edge reaches a lookup.
            if lookup.is_none_or(|(relation, asked)| (a != relation && b != relation) || a == asked || b == asked) {
                graph.edges.push(Edge { left: Relations::one(a), right: Relations::one(b), hashed: share < 0.5 });
                shares.push(share);
            }
        }
        let invented = sizes(&rows, &graph, &shares);
        let found = cheapest(&graph, &invented).unwrap();
        prop_assert_eq!(found.relations(), Relations::before(count));
        if let Some(least) = least_cost(&graph, &invented, Relations::before(count)) {
            let cost = found.cost_beside(&Tree::Leaf(0), &graph, &invented);
            prop_assert!(cost <= least * (1.0 + 1e-9), "{cost} > {least}: {found:?}");
        }
    }
}
