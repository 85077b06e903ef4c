//! Calling an `async fn` does not run it: it makes a future. The twin of
//! `examples/coroutine_object.py`.

use std::time::Duration;

async fn my_coroutine() {
    rondel::sleep(Duration::from_secs(1)).await;
    println!("this line is never reached");
}

fn type_of<T>(_: &T) -> &'static str {
    std::any::type_name::<T>()
}

async fn program() {
    let future = my_coroutine();
    println!(
        "<future {} of {} bytes>",
        type_of(&future),
        size_of_val(&future)
    );
    println!("It was never awaited: nothing in it has run. Without `let`, rustc would warn.");
}

fn main() -> Result<(), rondel::RunError> {
    rondel::run(program())
}
