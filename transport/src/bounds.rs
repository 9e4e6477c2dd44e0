#![doc = include_str!("../BOUNDS.md")]

#[cfg(test)]
mod tests {
    use crate::{Limits, NodeConfig, PublishOptions};

    /// The settings that a page must name: those that bound something, as their `Debug` shows them.
    fn settings(shown: &str) -> impl Iterator<Item = &str> {
        let names = shown.split([' ', '{', ',']).filter_map(|word| word.strip_suffix(':'));
        names.filter(|name| {
            ["max_", "_per_second", "_timeout", "_window_bytes", "_grace", "_limit", "close_expired"]
                .iter()
                .any(|part| name.contains(part))
        })
    }

    #[test]
    fn the_page_names_every_bound_that_can_be_set() {
        let page = include_str!("../BOUNDS.md");
        let shown = [
            format!("{:?}", NodeConfig::default()),
            format!("{:?}", Limits::default()),
            format!("{:?}", PublishOptions::<u64>::new()),
        ];
        let all: Vec<_> = shown.iter().flat_map(|shown| settings(shown)).filter(|name| *name != "max_mtu").collect();
        assert!(all.len() >= 24, "{all:?}");
        let missing: Vec<_> = all.iter().filter(|name| !page.contains(&format!("::{name}`"))).collect();
        assert!(missing.is_empty(), "not on the page: {missing:?}");
    }
}
