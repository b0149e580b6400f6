use proptest::prelude::*;

use super::super::arbitrary::table;
use super::super::fake::Kernel;
use super::super::{Chain, Field};
use super::*;

fn load(table: &Table) -> Kernel {
    let mut kernel = Kernel::default();
    kernel.apply(&diff(None, table)).unwrap();
    kernel
}

proptest! {
    #[test]
    fn applying_the_difference_gives_the_desired_table(a in table(), b in table()) {
        let mut kernel = load(&a);
        prop_assert_eq!(kernel.table(a.family, &a.name), Some(&a));
        kernel.apply(&diff(Some(&a), &b)).unwrap();
        prop_assert_eq!(kernel.table(b.family, &b.name), Some(&b));
    }

    #[test]
    fn a_table_does_not_differ_from_itself(a in table()) {
        prop_assert!(diff(Some(&a), &a.clone()).is_empty());
    }
}

#[test]
fn one_changed_value_is_one_deletion_and_one_addition() {
    let spec = SetSpec::map([Field::Mark], [Field::Mark]);
    let with = |value: u32| {
        let elements = (0..100u32).map(|n| {
            let value = if n == 50 { value } else { n };
            (Bytes::from(n), Element::data(value))
        });
        let mut table = Table::new(Family::Ip, "t");
        let set = spec.clone().with_elements(elements.collect());
        table.sets.insert("m".to_owned(), set);
        table
    };
    let (a, b) = (with(1), with(2));
    let tx = diff(Some(&a), &b);
    let text = crate::nft::text::transaction_on(&tx, &b);
    expect_test::expect![[r#"
        delete element m { 50 : 1 }
        add element m { 50 : 2 }
    "#]]
    .assert_eq(&text);
}

#[test]
fn a_chain_goes_after_the_element_that_led_to_it() {
    let mut a = Table::new(Family::Ip, "t");
    let element = Element::verdict(crate::nft::Verdict::Goto("target".to_owned()));
    let elements = [(Bytes::from(1u32), element)].into();
    let spec = SetSpec::vmap([Field::Mark]);
    a.sets
        .insert("v".to_owned(), spec.clone().with_elements(elements));
    a.chains.insert("target".to_owned(), Chain::default());
    let mut b = Table::new(Family::Ip, "t");
    b.sets
        .insert("v".to_owned(), spec.with_elements(BTreeMap::new()));
    let mut kernel = load(&a);
    kernel.apply(&diff(Some(&a), &b)).unwrap();
    kernel.apply(&diff(Some(&b), &a)).unwrap();
}

#[test]
fn removing_is_one_operation() {
    assert_eq!(remove(Family::Ip, "t").to_string(), "delete table t\n");
}
