from __future__ import annotations

import torch

from perturbia.nn import GivenTreatments, TreatmentCode

DOSES = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 0.5, 2]])


def test_few_treatments_are_read_as_they_are() -> None:
    code = TreatmentCode(3, max_size=8)
    assert code.size == 3
    torch.testing.assert_close(code(GivenTreatments.of_doses(DOSES)), DOSES)
    assert not any(parameter.requires_grad for parameter in code.parameters())


def test_many_are_read_through_a_learnt_table() -> None:
    code = TreatmentCode(3, max_size=2)
    assert code.size == 2
    read = code(GivenTreatments.of_doses(DOSES))
    torch.testing.assert_close(read, DOSES @ code.table)
    read.sum().backward()
    assert code.table.grad.abs().min() > 0


def test_unknown_treatments_are_read_as_none() -> None:
    code = TreatmentCode(3, max_size=2)
    code.known.copy_(torch.tensor([[1.0], [0.0], [1.0]]))
    read = code(GivenTreatments.of_doses(torch.tensor([[0.0, 1, 0], [1, 1, 0], [1, 0, 0]])))
    assert read[0].abs().max() == 0
    torch.testing.assert_close(read[1], read[2])
