import torch

from models.sam2.memory_bank import FrameMemory, MemoryBank


def memory(frame_index: int) -> FrameMemory:
    value = torch.tensor(float(frame_index))
    return FrameMemory(frame_index, value.view(1), value, features=value.view(1, 1), logits=value.view(1, 1))


def test_a_bank_does_not_grow_with_the_clip() -> None:
    bank = MemoryBank(num_memories=4, num_pointers=6)
    bank.add_prompted(memory(0))
    bank.add_prompted(memory(100))
    for frame in range(1, 1000):
        if frame != 100:
            bank.add_tracked(memory(frame))
    assert sorted(bank.prompted) == [0, 100]
    assert sorted(bank.tracked) == [1, 2, 3, 4, 5, *range(95, 100), *range(101, 106), *range(994, 1000)]
    held = [frame for frame, one in bank.tracked.items() if one.features is not None]
    assert sorted(held) == [1, 2, 3, 97, 98, 99, 101, 102, 103, 996, 997, 998, 999]


def test_what_a_frame_attends_to() -> None:
    bank = MemoryBank(num_memories=4, num_pointers=6)
    bank.add_prompted(memory(0))
    bank.add_prompted(memory(9))
    for frame in range(1, 8):
        bank.add_tracked(memory(frame))
    recall = bank.recall(8, reverse=False)
    assert [(steps, features.item()) for steps, features in recall.frames] == [(0, 0), (0, 9), (3, 5), (2, 6), (1, 7)]
    # The prompt on frame 9 lies ahead: its memory counts, its pointer does not.
    assert [(steps, pointer.item()) for steps, pointer in recall.pointers] == [
        (8, 0),
        *[(n, 8 - n) for n in range(1, 6)],
    ]
    recall = bank.recall(8, reverse=True)
    assert [steps for steps, _ in recall.frames] == [0, 0]
    assert [(steps, pointer.item()) for steps, pointer in recall.pointers] == [(1, 9)]


def test_a_prompt_replaces_what_was_tracked() -> None:
    bank = MemoryBank(num_memories=4, num_pointers=6)
    bank.add_prompted(memory(0))
    bank.add_tracked(memory(1))
    bank.add_prompted(memory(1))
    assert list(bank.prompted) == [0, 1] and not bank.tracked
