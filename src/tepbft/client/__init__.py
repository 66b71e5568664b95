"""The client: a sans-IO session, receipts that verify offline, and an asyncio client on top."""
