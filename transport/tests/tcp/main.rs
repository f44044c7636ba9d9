//! The tcp wire, on both of its engines: what bytes go through, how channels end, what limits do, and what happens
//! where io_uring is forbidden.

mod end;
mod life_cycle;
mod limits;
mod refusal;
mod stream;
mod waiting;

/// Makes a test of each function for each engine. Where io_uring cannot be used, its tests say so and pass.
#[macro_export]
macro_rules! on_both_engines {
    ($($name:ident),+ $(,)?) => {
        mod io_uring {
            $(#[test]
            fn $name() {
                if $crate::end::io_uring_is_usable(stringify!($name)) {
                    super::$name(underlay::backend::tcp::EngineChoice::IoUring);
                }
            })+
        }
        mod epoll {
            $(#[test]
            fn $name() {
                super::$name(underlay::backend::tcp::EngineChoice::Epoll);
            })+
        }
    };
}
