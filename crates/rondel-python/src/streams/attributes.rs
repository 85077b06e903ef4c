//! Attributes that stand for one field each.

/// A getter and a setter for a `Cell<bool>`.
macro_rules! flag {
    ($get:ident, $set:ident, $field:ident) => {
        fn $get(object: &Object) -> Res<Owned> {
            Ok(Owned::from_bool(fields(object).$field.get()))
        }
        fn $set(object: &Object, value: Option<&Object>) -> Res<()> {
            let value = value.map_or(Ok(false), Object::is_true)?;
            fields(object).$field.set(value);
            Ok(())
        }
    };
}
pub(super) use flag;

/// A getter and a setter for a `Slot`; an empty one is `None`.
macro_rules! object {
    ($get:ident, $set:ident, $field:ident) => {
        fn $get(object: &Object) -> Res<Owned> {
            Ok(fields(object).$field.or_none())
        }
        fn $set(object: &Object, value: Option<&Object>) -> Res<()> {
            let value = value.filter(|value| !value.is_none()).map(Object::own);
            drop(fields(object).$field.replace(value));
            Ok(())
        }
    };
}
pub(super) use object;
