//! The cheapest join tree of a graph of relations. Knows neither plans nor expressions.
//!
//! Exact search enumerates, for every connected set of relations, every way to split it into two connected sets that an edge joins, each
//! once. Source: "Dynamic Programming Strikes Back" (Moerkotte, Neumann, SIGMOD 2008); greedy search is "A new heuristic for optimizing
//! large queries" (Fegaras, DEXA 1998).

use std::collections::HashMap;
use std::ops::BitOr;

/// Relations up to which the search is exact.
pub(super) const EXACT_RELATIONS_MAX: usize = 12;
/// Joins that the exact search looks at before it leaves the rest to the greedy one: some milliseconds.
const EXACT_JOINS_MAX: usize = 20_000;

/// Cost of a row that a join puts into its table, of one that it looks up there, and of one that it gives, in the same unit.
const BUILD_COST: f64 = 3.0;
const PROBE_COST: f64 = 1.0;
const OUTPUT_COST: f64 = 1.0;
/// Cost of comparing two rows by a condition that cannot be looked up.
const COMPARE_COST: f64 = 0.1;
/// Bytes that cost as much as a row when they are copied within a process.
const COPIED_BYTES: f64 = 64.0;
/// Bytes that cost as much as a row when they change hands between processes.
const EXCHANGED_BYTES: f64 = 16.0;

/// A set of relations, by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(in crate::planning) struct Relations(u64);

impl Relations {
    /// As many relations as a graph may have.
    pub(in crate::planning) const MAX: usize = 64;

    pub(in crate::planning) fn one(relation: usize) -> Self {
        Self(1 << relation)
    }

    /// The relations before `end`.
    pub(in crate::planning) fn before(end: usize) -> Self {
        Self(if end >= Self::MAX { u64::MAX } else { (1 << end) - 1 })
    }

    pub(in crate::planning) fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(in crate::planning) fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    pub(in crate::planning) fn has(self, relation: usize) -> bool {
        self.0 & (1 << relation) != 0
    }

    pub(in crate::planning) fn contains(self, other: Self) -> bool {
        other.0 & !self.0 == 0
    }

    pub(in crate::planning) fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    pub(in crate::planning) fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    pub(in crate::planning) fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// The smallest number in it. Only for sets that are not empty.
    pub(in crate::planning) fn first(self) -> usize {
        self.0.trailing_zeros() as usize
    }

    /// The only relation in it.
    pub(in crate::planning) fn single(self) -> Option<usize> {
        (self.len() == 1).then(|| self.first())
    }

    pub(in crate::planning) fn iter(self) -> impl DoubleEndedIterator<Item = usize> {
        (0..Self::MAX).filter(move |relation| self.has(*relation))
    }

    /// All its subsets but the empty one, smaller ones before those that contain them.
    fn subsets(self) -> impl Iterator<Item = Self> {
        std::iter::successors(Some(Self(self.0.wrapping_neg() & self.0)), move |last| {
            Some(Self(last.0.wrapping_sub(self.0) & self.0)).filter(|next| !next.is_empty())
        })
        .filter(|subset| !subset.is_empty())
    }
}

impl BitOr for Relations {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl FromIterator<usize> for Relations {
    fn from_iter<T: IntoIterator<Item = usize>>(relations: T) -> Self {
        relations.into_iter().fold(Self::default(), |set, relation| set | Self::one(relation))
    }
}

/// A condition between two sets of relations that have no relation in common.
#[derive(Debug, Clone, Copy)]
pub(super) struct Edge {
    pub(super) left: Relations,
    pub(super) right: Relations,
    /// Whether it is an equality, so that a hash table answers it.
    pub(super) hashed: bool,
}

/// What joins what.
#[derive(Debug, Clone, Default)]
pub(super) struct Graph {
    /// By relation: what must be joined before it, if it is only ever looked up, row by row (the inner side of an outer join, and what a
    /// semi or anti join tests).
    pub(super) lookups: Vec<Option<Relations>>,
    pub(super) edges: Vec<Edge>,
}

/// How two sets of relations may be joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Link {
    /// Not at all.
    Forbidden,
    /// Every row with every row.
    Cross,
    /// Every row compared with every row.
    Compared,
    /// By a hash table.
    Hashed,
}

impl Graph {
    pub(super) fn len(&self) -> usize {
        self.lookups.len()
    }

    fn link(&self, a: Relations, b: Relations) -> Link {
        let may_join = |side: Relations, other: Relations| {
            let lookup = side.single().and_then(|relation| self.lookups[relation]);
            lookup.is_none_or(|needs| other.contains(needs))
        };
        if !may_join(a, b) || !may_join(b, a) {
            return Link::Forbidden;
        }
        let joins = |edge: &Edge| (a.contains(edge.left) && b.contains(edge.right)) || (b.contains(edge.left) && a.contains(edge.right));
        self.edges.iter().filter(|edge| joins(edge)).fold(Link::Cross, |link, edge| match edge.hashed {
            true => Link::Hashed,
            false if link == Link::Cross => Link::Compared,
            false => link,
        })
    }

    /// Relations one edge away from `set`, none of them in `forbidden`. Of an edge's far end that is a set, the first relation.
    fn neighbours(&self, set: Relations, forbidden: Relations) -> Relations {
        let excluded = set | forbidden;
        let far_end = |near: Relations, far: Relations| set.contains(near) && !far.meets(excluded);
        self.edges.iter().fold(Relations::default(), |found, edge| {
            let right = if far_end(edge.left, edge.right) { Relations::one(edge.right.first()) } else { Relations::default() };
            let left = if far_end(edge.right, edge.left) { Relations::one(edge.left.first()) } else { Relations::default() };
            found | right | left
        })
    }

    /// Sets of relations that edges hold together.
    fn components(&self) -> Vec<Relations> {
        let mut components: Vec<Relations> = (0..self.len()).map(Relations::one).collect();
        for edge in &self.edges {
            let both = edge.left | edge.right;
            let (touched, mut others): (Vec<_>, Vec<_>) = components.into_iter().partition(|component| component.meets(both));
            others.push(touched.into_iter().fold(Relations::default(), Relations::bitor));
            components = others;
        }
        components
    }
}

/// Rows and widths of joins. The rows of a set do not depend on the order in which it is joined.
pub(super) trait Sizes {
    fn rows(&self, set: Relations) -> f64;

    /// Bytes of a row.
    fn width(&self, set: Relations) -> f64;

    /// Bytes up to which every process gets the whole build side, so that the other side stays where it is.
    fn broadcast_bytes(&self) -> f64;
}

/// In which order relations are joined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Tree {
    Leaf(usize),
    Join(Box<Tree>, Box<Tree>),
}

impl Tree {
    pub(super) fn join(left: Self, right: Self) -> Self {
        Self::Join(Box::new(left), Box::new(right))
    }

    pub(super) fn relations(&self) -> Relations {
        match self {
            Self::Leaf(relation) => Relations::one(*relation),
            Self::Join(left, right) => left.relations() | right.relations(),
        }
    }

    /// Leaves from left to right.
    fn leaves(&self, into: &mut Vec<usize>) {
        match self {
            Self::Leaf(relation) => into.push(*relation),
            Self::Join(left, right) => {
                left.leaves(into);
                right.leaves(into);
            }
        }
    }

    /// Whether some join multiplies rows without a condition.
    fn has_cross(&self, graph: &Graph) -> bool {
        match self {
            Self::Leaf(_) => false,
            Self::Join(left, right) => {
                graph.link(left.relations(), right.relations()) == Link::Cross || left.has_cross(graph) || right.has_cross(graph)
            }
        }
    }

    /// The tree itself, unless it multiplies rows without need: then the relations in their order, each when a condition joins it to
    /// those before.
    pub(super) fn without_needless_cross(&self, graph: &Graph) -> Self {
        if !self.has_cross(graph) {
            return self.clone();
        }
        let mut rest = Vec::new();
        self.leaves(&mut rest);
        // The first leaf is never one that is looked up: what it needs is left of it.
        let mut tree = Self::Leaf(rest.remove(0));
        while !rest.is_empty() {
            let joined = tree.relations();
            let with = |wanted: Link| rest.iter().position(|next| graph.link(joined, Relations::one(*next)) == wanted);
            let next = with(Link::Hashed).or_else(|| with(Link::Compared)).or_else(|| with(Link::Cross));
            tree = Self::join(tree, Self::Leaf(rest.remove(next.unwrap_or_default())));
        }
        tree
    }

    /// What each of its joins joins, whichever side is built.
    fn joins(&self, into: &mut Vec<[Relations; 2]>) {
        if let Self::Join(left, right) = self {
            let mut sides = [left.relations(), right.relations()];
            sides.sort_unstable_by_key(|side| side.first());
            into.push(sides);
            left.joins(into);
            right.joins(into);
        }
    }

    /// Cost of the joins that another tree does not make.
    pub(super) fn cost_beside(&self, other: &Self, graph: &Graph, sizes: &dyn Sizes) -> f64 {
        let (mut joins, mut others) = (Vec::new(), Vec::new());
        self.joins(&mut joins);
        other.joins(&mut others);
        let cost = |[a, b]: [Relations; 2]| {
            let with_rows = |set| (set, sizes.rows(set));
            join_cost(graph.link(a, b), sizes, with_rows(a), with_rows(b), sizes.rows(a | b))
        };
        joins.into_iter().filter(|join| !others.contains(join)).map(cost).sum()
    }
}

/// Cost of one join, whichever side is built.
fn join_cost(link: Link, sizes: &dyn Sizes, a: (Relations, f64), b: (Relations, f64), rows: f64) -> f64 {
    let bytes = |(set, rows): (Relations, f64)| rows * sizes.width(set);
    let (build, probe) = if bytes(a) <= bytes(b) { (a, b) } else { (b, a) };
    let output = OUTPUT_COST * rows + rows * sizes.width(a.0 | b.0) / COPIED_BYTES;
    let work = match link {
        Link::Hashed => BUILD_COST * build.1 + PROBE_COST * probe.1,
        _ => COMPARE_COST * build.1 * probe.1,
    };
    let exchanged = if bytes(build) <= sizes.broadcast_bytes() { bytes(build) } else { bytes(build) + bytes(probe) };
    output + work + bytes(build) / COPIED_BYTES + exchanged / EXCHANGED_BYTES
}

/// The cheapest tree of all relations, or nearly the cheapest if there are many. Sets that no edge joins are multiplied last.
/// `None` if no order fulfils what lookups need.
pub(super) fn cheapest(graph: &Graph, sizes: &dyn Sizes) -> Option<Tree> {
    let mut search = Search::new(graph, sizes);
    if graph.len() <= EXACT_RELATIONS_MAX {
        search.exact();
    }
    search.greedy()
}

/// The best that is known of a set.
struct Best {
    cost: f64,
    rows: f64,
    /// The sides of its last join, the one to build first.
    sides: Option<(Relations, Relations)>,
}

struct Search<'a> {
    graph: &'a Graph,
    sizes: &'a dyn Sizes,
    best: HashMap<Relations, Best>,
    joins: usize,
}

impl<'a> Search<'a> {
    fn new(graph: &'a Graph, sizes: &'a dyn Sizes) -> Self {
        let leaf = |relation| {
            let set = Relations::one(relation);
            (set, Best { cost: 0.0, rows: sizes.rows(set), sides: None })
        };
        Self { graph, sizes, best: (0..graph.len()).map(leaf).collect(), joins: 0 }
    }

    fn exact(&mut self) {
        for relation in (0..self.graph.len()).rev() {
            self.pair(Relations::one(relation));
            self.grow(Relations::one(relation), Relations::before(relation + 1));
        }
    }

    fn is_exhausted(&self) -> bool {
        self.joins > EXACT_JOINS_MAX
    }

    /// Enumerates the connected sets around `set`.
    fn grow(&mut self, set: Relations, forbidden: Relations) {
        let neighbours = self.graph.neighbours(set, forbidden);
        for more in neighbours.subsets() {
            if self.is_exhausted() {
                return;
            }
            if self.best.contains_key(&(set | more)) {
                self.pair(set | more);
            }
        }
        for more in neighbours.subsets() {
            self.grow(set | more, forbidden | neighbours);
        }
    }

    /// Enumerates the connected sets that `set` can be joined with and that lie behind it in order.
    fn pair(&mut self, set: Relations) {
        let forbidden = set | Relations::before(set.first());
        let neighbours = self.graph.neighbours(set, forbidden);
        for relation in neighbours.iter().rev() {
            if self.is_exhausted() {
                return;
            }
            let other = Relations::one(relation);
            self.consider(set, other, true);
            self.grow_other(set, other, forbidden | neighbours.and(Relations::before(relation + 1)));
        }
    }

    fn grow_other(&mut self, set: Relations, other: Relations, forbidden: Relations) {
        let neighbours = self.graph.neighbours(other, forbidden);
        for more in neighbours.subsets() {
            if self.is_exhausted() {
                return;
            }
            if self.best.contains_key(&(other | more)) {
                self.consider(set, other | more, true);
            }
        }
        for more in neighbours.subsets() {
            self.grow_other(set, other | more, forbidden | neighbours);
        }
    }

    /// Keeps the join of two sets if it is allowed and the cheapest so far.
    fn consider(&mut self, a: Relations, b: Relations, linked: bool) {
        let link = self.graph.link(a, b);
        if link == Link::Forbidden || (linked && link == Link::Cross) {
            return;
        }
        self.joins += 1;
        let (left, right, set) = (&self.best[&a], &self.best[&b], a | b);
        let known = self.best.get(&set);
        let rows = known.map_or_else(|| self.sizes.rows(set), |best| best.rows);
        let cost = left.cost + right.cost + join_cost(link, self.sizes, (a, left.rows), (b, right.rows), rows);
        if known.is_none_or(|best| cost < best.cost) {
            let build_left = left.rows * self.sizes.width(a) <= right.rows * self.sizes.width(b);
            let sides = Some(if build_left { (a, b) } else { (b, a) });
            self.best.insert(set, Best { cost, rows, sides });
        }
    }

    /// Joins what the exact search found, or single relations, the pair with the fewest rows first.
    fn greedy(mut self) -> Option<Tree> {
        let found = !self.is_exhausted();
        let whole = |component: &Relations| found && self.best.contains_key(component);
        let components = self.graph.components();
        let mut parts: Vec<Relations> = components
            .iter()
            .flat_map(|component| match whole(component) {
                true => vec![*component],
                false => component.iter().map(Relations::one).collect(),
            })
            .collect();
        while parts.len() > 1 {
            let pairs = (0..parts.len()).flat_map(|i| (0..i).map(move |j| (j, i)));
            let linked = |(i, j): &(usize, usize)| match self.graph.link(parts[*i], parts[*j]) {
                Link::Forbidden => None,
                link => Some((link == Link::Cross, self.sizes.rows(parts[*i] | parts[*j]))),
            };
            let ranked = pairs.filter_map(|pair| Some((linked(&pair)?, pair)));
            let least = ranked.min_by(|((cross, rows), _), ((other_cross, other_rows), _)| {
                cross.cmp(other_cross).then_with(|| rows.total_cmp(other_rows))
            });
            let (_, (i, j)) = least?;
            let (b, a) = (parts.remove(j), parts.remove(i));
            self.consider(a, b, false);
            parts.push(a | b);
        }
        parts.first().map(|all| self.tree(*all))
    }

    fn tree(&self, set: Relations) -> Tree {
        match self.best[&set].sides {
            None => Tree::Leaf(set.first()),
            Some((build, probe)) => Tree::join(self.tree(build), self.tree(probe)),
        }
    }
}

#[cfg(test)]
mod tests;
