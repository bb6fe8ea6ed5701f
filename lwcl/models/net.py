"""A method's modules: the trained student and whatever else has state."""

from torch import nn

from lwcl.models.encoder import Encoder


class AfterStep(nn.Module):
    """A module that changes after each optimizer step, without a gradient."""

    def after_step(self, student: nn.Module) -> None:
        """Called with the updated student."""
        raise NotImplementedError


class Net(nn.Module):
    """A method's modules by name: the trained `student` and others, which a method declares itself.

    Those with a gradient are trained, all are saved in checkpoints.
    """

    def __init__(self, student: Encoder, **modules: nn.Module) -> None:
        super().__init__()
        self.student = student
        for name, module in modules.items():
            self.add_module(name, module)

    def after_step(self) -> None:
        """Updates its modules after an optimizer step: momentum encoders average, queues take the keys of the batch."""
        for module in self.children():
            if isinstance(module, AfterStep):
                module.after_step(self.student)
