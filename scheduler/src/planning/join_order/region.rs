//! The part of a plan whose joins may be made in any order: taken apart, and put together again.
//!
//! A region is a product of relations under conditions, with *lookups* in between: outer, semi and anti joins, whose inner side is a
//! relation of its own. A lookup answers for each row by itself, so that it may be made before or after any inner join and any condition
//! that does not use its columns; conditions that do come after it. That, and no more, is what the search may do with it. Joins that do
//! not fit (full, mark, null-aware, equal NULLs, volatile conditions) are relations, inside of which other regions lie.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use datafusion::common::{Column, DFSchemaRef, NullEquality, Result};
use datafusion::logical_expr::utils::{can_hash, conjunction, split_binary, split_conjunction, split_conjunction_owned};
use datafusion::logical_expr::{
    BinaryExpr, Expr, ExprSchemable, Filter, Join, JoinConstraint, JoinType, LogicalPlan, Operator, Projection,
};

use super::search::{Edge, Graph, Relations, Tree};
use super::sizes::RegionSizes;
use crate::planning::estimates::Estimate;

/// Joins that may be made in any order.
#[derive(Debug)]
pub(super) struct Region {
    pub(super) relations: Vec<Relation>,
    /// Conditions on more than one relation that are not in `classes`.
    pub(super) conjuncts: Vec<Conjunct>,
    /// Columns that are equal to each other, each with its relation.
    pub(super) classes: Vec<Vec<(usize, Column)>>,
    /// Conditions that stay above all joins.
    above: Vec<Expr>,
    /// The order as written.
    pub(super) tree: Tree,
    /// Whether a condition stands above a join that it could be part of.
    pub(super) is_loose: bool,
    schema: DFSchemaRef,
}

/// An input of a region.
#[derive(Debug)]
pub(super) struct Relation {
    pub(super) plan: LogicalPlan,
    /// Conditions on this relation alone.
    pub(super) conjuncts: Vec<Expr>,
    pub(super) lookup: Option<Lookup>,
}

/// How a relation is joined that only answers for rows of others.
#[derive(Debug)]
pub(super) struct Lookup {
    /// Left, left semi or left anti: the relation is on the right.
    pub(super) join_type: JoinType,
    pub(super) on: Vec<(Expr, Expr)>,
    pub(super) filter: Option<Expr>,
    null_equality: NullEquality,
    /// What it asks of.
    pub(super) needs: Relations,
}

/// A condition on more than one relation.
#[derive(Debug)]
pub(super) struct Conjunct {
    pub(super) expr: Expr,
    pub(super) needs: Relations,
    /// Its sides, if it is an equality of expressions over different relations.
    pub(super) equality: Option<Equality>,
}

/// An equality that a hash table can answer.
#[derive(Debug)]
pub(super) struct Equality {
    pub(super) left: (Expr, Relations),
    pub(super) right: (Expr, Relations),
    /// Whether what equals both equals each other. Not so for floating point: 0 equals -0 in some places.
    is_transitive: bool,
}

/// What a node of a plan is to the region around it.
pub(super) enum Part<'a> {
    /// Its input belongs to the region.
    Filter(&'a Filter),
    /// It keeps some columns of its input, which belongs to the region.
    Columns(&'a Projection),
    /// Both inputs belong to the region.
    Inner(&'a Join),
    /// The input that is said belongs to the region; the other is a relation.
    Lookup(&'a Join, JoinType),
}

impl Part<'_> {
    /// Whether the input with this number may belong to the region.
    pub(super) fn reaches(&self, input: usize) -> bool {
        match self {
            Self::Lookup(join, _) => (input == 0) == is_left(join.join_type),
            _ => true,
        }
    }
}

/// What the root of a region, or a node below it, is. `None` is a relation.
pub(super) fn part(plan: &LogicalPlan, is_root: bool) -> Option<Part<'_>> {
    match plan {
        LogicalPlan::Filter(filter) => {
            let may_move = is_root || split_conjunction(&filter.predicate).into_iter().all(is_movable);
            (may_move && part(&filter.input, is_root).is_some()).then_some(Part::Filter(filter))
        }
        LogicalPlan::Projection(projection) => {
            let only_columns = projection.expr.iter().all(|expr| matches!(expr, Expr::Column(_)));
            (only_columns && part(&projection.input, is_root).is_some()).then_some(Part::Columns(projection))
        }
        LogicalPlan::Join(join) => {
            let movable = join.filter.iter().all(is_movable) && join.on.iter().all(|(left, right)| is_movable(left) && is_movable(right));
            if !movable || join.null_aware {
                return None;
            }
            match join.join_type {
                JoinType::Inner => (join.null_equality == NullEquality::NullEqualsNothing).then_some(Part::Inner(join)),
                JoinType::Left | JoinType::LeftSemi | JoinType::LeftAnti => Some(Part::Lookup(join, join.join_type)),
                JoinType::Right | JoinType::RightSemi | JoinType::RightAnti => Some(Part::Lookup(join, join.join_type.swap())),
                JoinType::Full | JoinType::LeftMark | JoinType::RightMark => None,
            }
        }
        _ => None,
    }
}

fn is_left(join_type: JoinType) -> bool {
    matches!(join_type, JoinType::Left | JoinType::LeftSemi | JoinType::LeftAnti)
}

/// Whether a condition means the same wherever its columns are.
pub(super) fn is_movable(expr: &Expr) -> bool {
    let is_bound = |expr: &Expr| {
        matches!(
            expr,
            Expr::OuterReferenceColumn(..) | Expr::Exists(_) | Expr::InSubquery(_) | Expr::ScalarSubquery(_) | Expr::SetComparison(_)
        )
    };
    !expr.is_volatile() && !datafusion::common::tree_node::TreeNode::exists(expr, |expr| Ok(is_bound(expr))).unwrap_or(true)
}

impl Region {
    /// The region whose root is `plan`. `None` if it is no join, or one that cannot be taken apart.
    pub(super) fn of(plan: &LogicalPlan) -> Option<Self> {
        part(plan, true)?;
        let mut parts = Parts::default();
        let tree = parts.walk(plan, true)?;
        parts.assemble(tree, plan)
    }

    pub(super) fn graph(&self) -> Graph {
        let lookups = self.relations.iter().map(|relation| relation.lookup.as_ref().map(|lookup| lookup.needs)).collect();
        let mut edges = Vec::new();
        for (number, relation) in self.relations.iter().enumerate() {
            if let Some(lookup) = &relation.lookup {
                edges.push(Edge { left: lookup.needs, right: Relations::one(number), hashed: !lookup.on.is_empty() });
            }
        }
        for class in &self.classes {
            for (position, (left, _)) in class.iter().enumerate() {
                let others = class[..position].iter().filter(|(right, _)| right != left);
                edges.extend(others.map(|(right, _)| Edge { left: Relations::one(*left), right: Relations::one(*right), hashed: true }));
            }
        }
        for conjunct in &self.conjuncts {
            match &conjunct.equality {
                Some(Equality { left, right, .. }) => {
                    let (left, right) = (self.with_needs(left.1), self.with_needs(right.1));
                    if !left.meets(right) {
                        edges.push(Edge { left, right, hashed: true });
                    }
                }
                None if conjunct.needs.len() == 2 => {
                    let first = Relations::one(conjunct.needs.first());
                    edges.push(Edge { left: first, right: conjunct.needs.without(first), hashed: false });
                }
                None => {}
            }
        }
        // An edge to a lookup alone is none: only its own join reaches it.
        edges.retain(|edge| {
            let is_lookup = |side: Relations| side.single().is_some_and(|relation| self.relations[relation].lookup.is_some());
            let own = |side: Relations, other: Relations| {
                side.single().and_then(|relation| self.relations[relation].lookup.as_ref()).is_some_and(|lookup| lookup.needs == other)
            };
            (!is_lookup(edge.left) || own(edge.left, edge.right)) && (!is_lookup(edge.right) || own(edge.right, edge.left))
        });
        Graph { lookups, edges }
    }

    fn with_needs(&self, set: Relations) -> Relations {
        with_needs(&self.relations, set)
    }

    /// What is known of the rows of all joins together.
    pub(super) fn estimate(&self) -> Option<Estimate> {
        let sizes = RegionSizes::of(self, f64::MAX)?;
        sizes.estimate(self, &self.schema)
    }

    /// The plan that joins in the order of `tree`, with the columns that the region had.
    pub(super) fn build(self, tree: &Tree) -> Result<LogicalPlan> {
        let (mut plan, _) = self.join(tree)?;
        if let Some(predicate) = conjunction(self.above) {
            plan = LogicalPlan::Filter(Filter::try_new(predicate, Arc::new(plan))?);
        }
        let is_same = plan.schema().iter().eq(self.schema.iter());
        Ok(match is_same {
            true => plan,
            false => LogicalPlan::Projection(Projection::new_from_schema(Arc::new(plan), self.schema)),
        })
    }

    fn join(&self, tree: &Tree) -> Result<(LogicalPlan, Relations)> {
        let (left, right) = match tree {
            Tree::Leaf(number) => {
                let relation = &self.relations[*number];
                return Ok((filtered(relation.plan.clone(), relation.conjuncts.iter().cloned())?, Relations::one(*number)));
            }
            Tree::Join(left, right) => (self.join(left)?, self.join(right)?),
        };
        let lookup = |side: Relations| side.single().and_then(|relation| self.relations[relation].lookup.as_ref());
        let (left, right, lookup) = match (lookup(left.1), lookup(right.1)) {
            (_, Some(lookup)) => (left, right, Some(lookup)),
            (Some(lookup), None) => (right, left, Some(lookup)),
            (None, None) => (left, right, None),
        };
        let (a, b) = (left.1, right.1);
        // A condition on a lookup's columns needs more than the lookup: it is never among those that only one side has.
        let new = self
            .conjuncts
            .iter()
            .filter(|conjunct| (a | b).contains(conjunct.needs) && !a.contains(conjunct.needs) && !b.contains(conjunct.needs));
        let (mut on, mut rest) = (Vec::new(), Vec::new());
        if lookup.is_none() {
            on.extend(self.classes.iter().filter_map(|class| {
                let in_side = |side: Relations| class.iter().find(|(relation, _)| side.has(*relation));
                Some((Expr::Column(in_side(a)?.1.clone()), Expr::Column(in_side(b)?.1.clone())))
            }));
        }
        for conjunct in new {
            match &conjunct.equality {
                Some(Equality { left, right, .. }) if lookup.is_none() && a.contains(left.1) && b.contains(right.1) => {
                    on.push((left.0.clone(), right.0.clone()));
                }
                Some(Equality { left, right, .. }) if lookup.is_none() && b.contains(left.1) && a.contains(right.1) => {
                    on.push((right.0.clone(), left.0.clone()));
                }
                _ => rest.push(conjunct.expr.clone()),
            }
        }
        let (left, right) = (Arc::new(left.0), Arc::new(right.0));
        let plan = match lookup {
            Some(Lookup { join_type, on, filter, null_equality, .. }) => {
                let (on, filter) = (on.clone(), filter.clone());
                let join = Join::try_new(left, right, on, filter, *join_type, JoinConstraint::On, *null_equality, false)?;
                filtered(LogicalPlan::Join(join), rest)?
            }
            None => {
                let nothing = NullEquality::NullEqualsNothing;
                let filter = conjunction(rest);
                LogicalPlan::Join(Join::try_new(left, right, on, filter, JoinType::Inner, JoinConstraint::On, nothing, false)?)
            }
        };
        Ok((plan, a | b))
    }
}

fn filtered(plan: LogicalPlan, conjuncts: impl IntoIterator<Item = Expr>) -> Result<LogicalPlan> {
    Ok(match conjunction(conjuncts) {
        Some(predicate) => LogicalPlan::Filter(Filter::try_new(predicate, Arc::new(plan))?),
        None => plan,
    })
}

/// `set`, and what its lookups need.
fn with_needs(relations: &[Relation], set: Relations) -> Relations {
    let needs = set.iter().filter_map(|relation| relations[relation].lookup.as_ref()).map(|lookup| lookup.needs);
    needs.fold(set, |all, needs| all | needs)
}

/// A region while its plan is walked.
#[derive(Default)]
struct Parts {
    relations: Vec<Relation>,
    conjuncts: Vec<Expr>,
    above: Vec<Expr>,
    /// Conditions that stood in filters.
    loose: Vec<Expr>,
}

impl Parts {
    fn walk(&mut self, plan: &LogicalPlan, is_root: bool) -> Option<Tree> {
        match part(plan, is_root) {
            None => self.leaf(plan, None).map(Tree::Leaf),
            Some(Part::Filter(filter)) => {
                let conjuncts = split_conjunction_owned(filter.predicate.clone());
                let (movable, fixed): (Vec<_>, Vec<_>) = conjuncts.into_iter().partition(is_movable);
                self.loose.extend(movable);
                self.above.extend(fixed);
                self.walk(&filter.input, is_root)
            }
            Some(Part::Columns(projection)) => self.walk(&projection.input, is_root),
            Some(Part::Inner(join)) => {
                self.conjuncts.extend(join.on.iter().map(|(left, right)| left.clone().eq(right.clone())));
                self.conjuncts.extend(join.filter.iter().flat_map(|filter| split_conjunction_owned(filter.clone())));
                Some(Tree::join(self.walk(&join.left, false)?, self.walk(&join.right, false)?))
            }
            Some(Part::Lookup(join, join_type)) => {
                let on = join.on.iter().cloned();
                let (asking, asked, on) = match is_left(join.join_type) {
                    true => (&join.left, &join.right, on.collect()),
                    false => (&join.right, &join.left, on.map(|(left, right)| (right, left)).collect()),
                };
                let tree = self.walk(asking, false)?;
                // All that it could ask of; less, once it is known whose columns it uses.
                let needs = tree.relations();
                let lookup = Lookup { join_type, on, filter: join.filter.clone(), null_equality: join.null_equality, needs };
                Some(Tree::join(tree, Tree::Leaf(self.leaf(asked, Some(lookup))?)))
            }
        }
    }

    fn leaf(&mut self, plan: &LogicalPlan, lookup: Option<Lookup>) -> Option<usize> {
        let number = self.relations.len();
        self.relations.push(Relation { plan: plan.clone(), conjuncts: Vec::new(), lookup });
        (number < Relations::MAX).then_some(number)
    }

    /// Finds out what uses what. `None` if a column cannot be told apart from another.
    fn assemble(mut self, tree: Tree, plan: &LogicalPlan) -> Option<Region> {
        let mut owners = Owners::default();
        for (number, relation) in self.relations.iter().enumerate() {
            let is_visible = relation.lookup.as_ref().is_none_or(|lookup| lookup.join_type == JoinType::Left);
            owners.add(number, relation, is_visible)?;
        }
        for number in 0..self.relations.len() {
            let Some(lookup) = &self.relations[number].lookup else { continue };
            let mut asked = Relations::default();
            for expr in lookup.on.iter().map(|(asking, _)| asking).chain(&lookup.filter) {
                asked = asked | owners.of(expr, Some(number))?;
            }
            let asked = asked.without(Relations::one(number));
            if !lookup.needs.contains(asked) {
                return None;
            }
            // One that asks of nothing comes where it was written.
            let needs = if asked.is_empty() { lookup.needs } else { with_needs(&self.relations, asked) };
            if let Some(lookup) = &mut self.relations[number].lookup {
                lookup.needs = needs;
            }
        }
        let mut written: Vec<(Expr, bool)> = std::mem::take(&mut self.conjuncts).into_iter().map(|expr| (expr, false)).collect();
        written.extend(std::mem::take(&mut self.loose).into_iter().map(|expr| (expr, true)));
        for implied in written.iter().flat_map(|(expr, _)| implied_equalities(expr)).collect::<Vec<_>>() {
            let is_between = owners.of(&implied, None)?.len() == 2;
            if is_between && !written.iter().any(|(expr, _)| is_same_equality(expr, &implied)) {
                written.push((implied, true));
            }
        }
        let mut is_loose = false;
        let (mut conjuncts, mut equal_columns) = (Vec::new(), Vec::new());
        for (expr, was_loose) in written {
            let used = owners.of(&expr, None)?;
            let needs = with_needs(&self.relations, used);
            match used.single() {
                _ if used.is_empty() => self.above.push(expr),
                Some(relation) if self.relations[relation].lookup.is_none() => self.relations[relation].conjuncts.push(expr),
                _ => {
                    let is_free = used.iter().all(|relation| self.relations[relation].lookup.is_none());
                    is_loose |= was_loose && is_free;
                    let equality = owners.equality(&expr, &self.relations);
                    match equality.as_ref().filter(|equality| is_free && equality.is_transitive).and_then(column_pair) {
                        Some(pair) => equal_columns.push(pair),
                        None => conjuncts.push(Conjunct { expr, needs, equality }),
                    }
                }
            }
        }
        let classes = classes(equal_columns);
        self.equate_within(&classes);
        let Self { relations, above, .. } = self;
        Some(Region { relations, conjuncts, classes, above, tree, is_loose, schema: Arc::clone(plan.schema()) })
    }

    /// Two columns of one relation that equal the same column of another are equal: said of the relation, as joins compare only one.
    fn equate_within(&mut self, classes: &[Vec<(usize, Column)>]) {
        for class in classes {
            for (position, (relation, column)) in class.iter().enumerate() {
                let Some((_, other)) = class[..position].iter().find(|(other, _)| other == relation) else { continue };
                self.relations[*relation].conjuncts.push(Expr::Column(other.clone()).eq(Expr::Column(column.clone())));
            }
        }
    }
}

/// Which relation a column belongs to.
#[derive(Default)]
struct Owners {
    visible: HashMap<Column, usize>,
    /// By lookup of which nothing is seen but whether it found something.
    hidden: HashMap<usize, Vec<Column>>,
}

impl Owners {
    fn add(&mut self, number: usize, relation: &Relation, is_visible: bool) -> Option<()> {
        let columns = relation.plan.schema().columns();
        if !is_visible {
            self.hidden.insert(number, columns);
            return Some(());
        }
        for column in columns {
            match self.visible.entry(column) {
                Entry::Occupied(_) => return None,
                Entry::Vacant(entry) => entry.insert(number),
            };
        }
        Some(())
    }

    /// Relations whose columns an expression uses; `asked` is the lookup that it belongs to.
    fn of(&self, expr: &Expr, asked: Option<usize>) -> Option<Relations> {
        let hidden = asked.and_then(|number| Some((number, self.hidden.get(&number)?)));
        let owner = |column: &&Column| {
            let visible = self.visible.get(*column).copied();
            let hidden = hidden.filter(|(_, columns)| columns.contains(column)).map(|(number, _)| number);
            match (visible, hidden) {
                (Some(_), Some(_)) => None,
                (visible, hidden) => visible.or(hidden),
            }
        };
        expr.column_refs().iter().map(owner).collect()
    }

    /// The sides of an equality that a hash table can answer.
    fn equality(&self, expr: &Expr, relations: &[Relation]) -> Option<Equality> {
        let Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) = expr else { return None };
        let side = |expr: &Expr| {
            let used = self.of(expr, None).filter(|used| !used.is_empty())?;
            let mut schemas = used.iter().map(|relation| relations[relation].plan.schema());
            let first = Arc::clone(schemas.next()?);
            let schema = schemas.fold(first, |mut all, schema| {
                Arc::make_mut(&mut all).merge(schema);
                all
            });
            Some((used, expr.get_type(&schema).ok().filter(can_hash)?))
        };
        let ((left_used, left_type), (right_used, right_type)) = (side(left)?, side(right)?);
        let is_equality = !left_used.meets(right_used) && left_type == right_type;
        is_equality.then(|| Equality {
            left: (left.as_ref().clone(), left_used),
            right: (right.as_ref().clone(), right_used),
            is_transitive: !left_type.is_floating() && !left_type.is_nested(),
        })
    }
}

/// The two columns that an equality compares.
fn column_pair(equality: &Equality) -> Option<[(usize, Column); 2]> {
    let column = |(expr, used): &(Expr, Relations)| match expr {
        Expr::Column(column) => Some((used.single()?, column.clone())),
        _ => None,
    };
    Some([column(&equality.left)?, column(&equality.right)?])
}

/// Merges pairs that have a column in common.
fn classes(pairs: Vec<[(usize, Column); 2]>) -> Vec<Vec<(usize, Column)>> {
    let mut classes: Vec<Vec<(usize, Column)>> = Vec::new();
    for pair in pairs {
        let (touched, mut others): (Vec<_>, Vec<_>) =
            classes.into_iter().partition(|class| pair.iter().any(|column| class.contains(column)));
        let mut merged: Vec<_> = touched.into_iter().flatten().collect();
        for column in pair {
            if !merged.contains(&column) {
                merged.push(column);
            }
        }
        others.push(merged);
        classes = others;
    }
    classes
}

/// Equalities of columns that hold in every branch of an OR.
pub(super) fn implied_equalities(expr: &Expr) -> Vec<Expr> {
    let branches = split_binary(expr, Operator::Or);
    let [first, others @ ..] = branches.as_slice() else { return Vec::new() };
    if others.is_empty() {
        return Vec::new();
    }
    let in_branch = |branch: &Expr, wanted: &(&Expr, &Expr)| {
        let found = split_conjunction(branch).into_iter().filter_map(equal_columns);
        found.into_iter().any(|(left, right)| (left, right) == *wanted || (right, left) == *wanted)
    };
    let candidates = split_conjunction(first).into_iter().filter_map(equal_columns);
    let implied = candidates.filter(|pair| others.iter().all(|branch| in_branch(branch, pair)));
    implied.map(|(left, right)| left.clone().eq(right.clone())).collect()
}

fn is_same_equality(expr: &Expr, other: &Expr) -> bool {
    let (Some((left, right)), Some(other)) = (equal_columns(expr), equal_columns(other)) else { return false };
    other == (left, right) || other == (right, left)
}

fn equal_columns(expr: &Expr) -> Option<(&Expr, &Expr)> {
    match expr {
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) => match (left.as_ref(), right.as_ref()) {
            (Expr::Column(_), Expr::Column(_)) => Some((left, right)),
            _ => None,
        },
        _ => None,
    }
}
