//! One value over another: what a host says wins over an override, and that over the fleet's defaults, field by field.

/// Lays one value over another of the same shape.
pub(crate) trait Overlay: Sized {
    /// Fields that `self` has win; the others are `base`'s.
    fn over(self, base: Self) -> Self;
}

/// The same for fields that may be left out.
pub(crate) fn deep<T: Overlay>(top: Option<T>, base: Option<T>) -> Option<T> {
    match (top, base) {
        (Some(top), Some(base)) => Some(top.over(base)),
        (top, base) => top.or(base),
    }
}

/// Implements `Overlay`; naming every field makes a forgotten one an error of the compiler.
macro_rules! overlay {
    ($name:ty { leaf: [$($leaf:ident),*], deep: [$($deep:ident),*] }) => {
        impl $crate::kind::overlay::Overlay for $name {
            fn over(self, base: Self) -> Self {
                Self {
                    $($leaf: self.$leaf.or(base.$leaf),)*
                    $($deep: $crate::kind::overlay::deep(self.$deep, base.$deep),)*
                }
            }
        }
    };
}
pub(crate) use overlay;
