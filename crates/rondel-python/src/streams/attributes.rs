//! Attributes that stand for one field each.

/// A getter and a setter for a `Cell<bool>`.
macro_rules! flag {
    ($class:ty: $get:ident, $set:ident, $field:ident) => {
        fn $get(this: &$crate::cpython::native::Native<$class>) -> Res<Owned> {
            Ok(Owned::from_bool(this.$field.get()))
        }
        fn $set(this: &$crate::cpython::native::Native<$class>, value: Option<&Object>) -> Res<()> {
            let value = value.map_or(Ok(false), Object::is_true)?;
            this.$field.set(value);
            Ok(())
        }
    };
}
pub(super) use flag;

/// A getter and a setter for a `Slot`; an empty one is `None`.
macro_rules! object {
    ($class:ty: $get:ident, $set:ident, $field:ident) => {
        fn $get(this: &$crate::cpython::native::Native<$class>) -> Res<Owned> {
            Ok(this.$field.or_none())
        }
        fn $set(this: &$crate::cpython::native::Native<$class>, value: Option<&Object>) -> Res<()> {
            let value = value.filter(|value| !value.is_none()).map(Object::own);
            drop(this.$field.replace(value));
            Ok(())
        }
    };
}
pub(super) use object;
