//! The usual wiring mistakes do not compile, and the first line of the error names the mistake.

#[test]
fn wiring_mistakes_are_named_by_the_compiler() {
    let cases = trybuild::TestCases::new();
    cases.compile_fail("tests/wiring/*.rs");
}
