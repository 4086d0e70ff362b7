import asyncio

from megatron_ar3po.rollout.slots import PrioritySlots


def run_order(ranks: list[int], num_slots: int = 1) -> list[int]:
    """The order in which tasks that ask in the order of `ranks` get a slot."""
    order = []

    async def work(slots, rank):
        async with slots.slot(rank):
            order.append(rank)
            await asyncio.sleep(0.001)

    async def main():
        slots = PrioritySlots(num_slots)
        await asyncio.gather(*(work(slots, rank) for rank in ranks))

    asyncio.run(main())
    return order


def test_the_smallest_rank_goes_first():
    assert run_order([5, 3, 9, 1]) == [5, 1, 3, 9]  # the first to come found the slot free


def test_a_cancelled_waiter_takes_no_slot_with_it():
    async def main():
        slots = PrioritySlots(1)
        held, let_go = asyncio.Event(), asyncio.Event()

        async def hold():
            async with slots.slot(0):
                held.set()
                await let_go.wait()

        async def take():
            async with slots.slot(1):
                return "served"

        holder = asyncio.create_task(hold())
        await held.wait()
        waiting, other = asyncio.create_task(take()), asyncio.create_task(take())
        await asyncio.sleep(0)
        let_go.set()
        await holder  # the slot is handed to `waiting`, which is cancelled before it runs
        waiting.cancel()
        assert await asyncio.wait_for(other, 1) == "served"
        assert await asyncio.wait_for(take(), 1) == "served"

    asyncio.run(main())


def test_more_slots_let_the_next_in_line_in_and_fewer_take_no_place_away():
    """Two slots, four tasks: grown to three, one more begins; shrunk to one, the next begins when three have ended."""

    async def main() -> list[list[int]]:
        slots, began, may_end = PrioritySlots(2), [], [asyncio.Event() for _ in range(4)]
        seen = []

        async def task(index: int) -> None:
            async with slots.slot(index):
                began.append(index)
                await may_end[index].wait()

        async def look() -> None:
            await asyncio.sleep(0.01)
            seen.append(list(began))

        tasks = [asyncio.ensure_future(task(index)) for index in range(4)]
        await look()
        slots.resize(3)
        await look()
        slots.resize(1)
        for index in (0, 1):
            may_end[index].set()
            await look()
        may_end[2].set()
        await look()
        may_end[3].set()
        await asyncio.gather(*tasks)
        return seen

    assert asyncio.run(main()) == [[0, 1], [0, 1, 2], [0, 1, 2], [0, 1, 2], [0, 1, 2, 3]]
