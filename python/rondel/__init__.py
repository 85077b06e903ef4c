"""asyncio, in Rust."""
