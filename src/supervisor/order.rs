//! From what children need, by name, to an order in which each comes after all that it needs.

use std::collections::HashMap;

/// A child, and what it needs: everyone before it, or those of these names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Needs {
    All,
    These(Vec<String>),
}

/// Where each comes in the order, and whom it needs there, by their places.
///
/// Who stands first among those that are free comes first. Of everyone before it only those are named that nobody before it needs: the
/// others are needed by them.
pub(super) fn in_order(children: &[(String, Needs)]) -> Result<Vec<(usize, Vec<usize>)>, String> {
    let mut numbers = HashMap::new();
    for (number, (name, _)) in children.iter().enumerate() {
        if numbers.insert(name.as_str(), number).is_some() {
            return Err(format!("two children are called `{name}`: give one of them another name"));
        }
    }
    let mut needs: Vec<Vec<usize>> = Vec::new();
    let mut is_needed = vec![false; children.len()];
    for (number, (name, wants)) in children.iter().enumerate() {
        let these: Vec<usize> = match wants {
            Needs::All => (0..number).filter(|other| !is_needed[*other]).collect(),
            Needs::These(names) => {
                let unknown =
                    |need: &str| format!("`{name}` is to come after `{need}`, and there is no child of that name");
                let find = |need: &String| numbers.get(need.as_str()).copied().ok_or_else(|| unknown(need));
                names.iter().map(find).collect::<Result<_, _>>()?
            }
        };
        these.iter().for_each(|need| is_needed[*need] = true);
        needs.push(these);
    }
    let mut order: Vec<(usize, Vec<usize>)> = Vec::new();
    let mut places: Vec<Option<usize>> = vec![None; children.len()];
    while order.len() < children.len() {
        let is_free =
            |number: &usize| places[*number].is_none() && needs[*number].iter().all(|need| places[*need].is_some());
        let Some(next) = (0..children.len()).find(is_free) else { return Err(cycle(children, &needs, &places)) };
        places[next] = Some(order.len());
        order.push((next, needs[next].iter().filter_map(|need| places[*need]).collect()));
    }
    Ok(order)
}

/// Some of those who wait for each other.
fn cycle(children: &[(String, Needs)], needs: &[Vec<usize>], places: &[Option<usize>]) -> String {
    let waits_for = |number: usize| needs[number].iter().copied().find(|need| places[*need].is_none());
    let mut path: Vec<usize> = (0..children.len()).find(|number| places[*number].is_none()).into_iter().collect();
    let from = loop {
        let Some(next) = path.last().and_then(|last| waits_for(*last)) else { break 0 };
        if let Some(from) = path.iter().position(|other| *other == next) {
            break from;
        }
        path.push(next);
    };
    let names: Vec<_> =
        path[from..].iter().chain(path.get(from)).map(|number| format!("`{}`", children[*number].0)).collect();
    format!("no order is possible: {}", names.join(" comes after "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn children(list: &[(&str, Option<&[&str]>)]) -> Vec<(String, Needs)> {
        let needs = |names: &Option<&[&str]>| match names {
            None => Needs::All,
            Some(names) => Needs::These(names.iter().map(|name| (*name).to_owned()).collect()),
        };
        list.iter().map(|(name, names)| ((*name).to_owned(), needs(names))).collect()
    }

    #[test]
    fn a_row_needs_the_one_before() {
        let order = in_order(&children(&[("a", None), ("b", None), ("c", None)])).unwrap();
        assert_eq!(order, [(0, vec![]), (1, vec![0]), (2, vec![1])]);
    }

    #[test]
    fn who_needs_all_before_him_needs_those_that_nobody_needs() {
        let some: &[(&str, Option<&[&str]>)] =
            &[("db", None), ("api", Some(&["db"])), ("cache", Some(&[])), ("web", None)];
        let order = in_order(&children(some)).unwrap();
        assert_eq!(order, [(0, vec![]), (1, vec![0]), (2, vec![]), (3, vec![1, 2])]);
    }

    #[test]
    fn one_that_is_named_later_comes_first() {
        let order = in_order(&children(&[("web", Some(&["db"])), ("db", Some(&[]))])).unwrap();
        assert_eq!(order, [(1, vec![]), (0, vec![0])]);
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        let fails = |list: &[(&str, Option<&[&str]>)]| in_order(&children(list)).unwrap_err();
        assert_eq!(fails(&[("a", None), ("a", None)]), "two children are called `a`: give one of them another name");
        assert_eq!(fails(&[("a", Some(&["b"]))]), "`a` is to come after `b`, and there is no child of that name");
        assert_eq!(fails(&[("a", Some(&["a"]))]), "no order is possible: `a` comes after `a`");
        let three: &[(&str, Option<&[&str]>)] =
            &[("x", None), ("a", Some(&["b"])), ("b", Some(&["c"])), ("c", Some(&["b"]))];
        assert_eq!(fails(three), "no order is possible: `b` comes after `c` comes after `b`");
        // Who needs all before him, and is needed by one of those.
        let all: &[(&str, Option<&[&str]>)] = &[("a", Some(&["b"])), ("b", None)];
        assert_eq!(fails(all), "no order is possible: `a` comes after `b` comes after `a`");
    }
}
