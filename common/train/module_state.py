"""Weights and optimizer state out of a bound ``mx.mod.Module``, and back into another one."""

from typing import Dict, List, Tuple

import numpy as np

from common.cli import UserError
from common.graph import columns
from common.runtime.mxnet import mx


def weights(module: mx.mod.Module) -> Tuple[dict, dict]:
    """The parameters of a bound module, (arg_params, aux_params), float32, to the last bit.

    ``module.get_params()`` would give the mean over the devices, which differs by rounding. Of
    float16 weights these are the optimizer's float32 copies, once there are any.
    """
    auxiliary_states(module)  # waits
    group = module._exec_group
    pairs = ((group.param_names, group.param_arrays), (group.aux_names, group.aux_arrays))
    arg_params, aux_params = (
        {name: arrays[0].astype("float32").copyto(mx.cpu()) for name, arrays in zip(names, lists)}
        for names, lists in pairs
    )
    for index, name in _trained(module):
        kept = _updater(module).states.get(_keys(module, index, name)[0][0])
        if kept is not None and group.param_arrays[index][0].dtype == np.float16:
            # MXNet's SGD and NAG keep it last, its other optimizers first.
            last = isinstance(module._optimizer, (mx.optimizer.SGD, mx.optimizer.NAG))
            arg_params[name] = kept[-1 if last else 0].copyto(mx.cpu())
    return columns.merge(arg_params), columns.merge(aux_params)


def auxiliary_states(module: mx.mod.Module) -> List[mx.nd.NDArray]:
    """All devices' arrays of auxiliary states, after the last pass.

    Batch norm changes them in its backward pass, and MXNet lets others read them before that ends.
    """
    states = [array for arrays in module._exec_group.aux_arrays for array in arrays]
    if states:
        mx.nd.waitall()
    return states


def optimizer_state(module: mx.mod.Module) -> Dict[str, mx.nd.NDArray]:
    """``weight:n`` -> the n-th array that the optimizer keeps for a weight."""
    state = {}
    for index, name in _trained(module):
        key, _ = _keys(module, index, name)[0]
        for i, array in enumerate(_arrays(_updater(module).states.get(key))):
            state[f"{name}:{i}"] = array
    return columns.merge(state)


def optimizer_arrays(module: mx.mod.Module) -> Dict[int, List[mx.nd.NDArray]]:
    """By the index of each trained weight, the arrays that the optimizer keeps for it.

    They are those of the first device, and made here before the first update.
    """
    states, found = _updater(module).states, {}
    for index, name in _trained(module):
        key, device = _keys(module, index, name)[0]
        if key not in states:
            weight = module._exec_group.param_arrays[index][device]
            states[key] = module._optimizer.create_state_multi_precision(key, weight)
            _updater(module).states_synced[key] = True
        found[index] = _arrays(states[key])
    return found


def restore_optimizer(module: mx.mod.Module, state: Dict[str, mx.nd.NDArray]) -> None:
    """Give the optimizer of ``module`` the state that :func:`optimizer_state` took from another.

    The two modules may be on different devices, and on a different number of them. UserError if it
    is not the state of this optimizer for these weights.
    """
    updater, optimizer, group = _updater(module), module._optimizer, module._exec_group
    state = columns.split(state, group.param_names)
    missing, unused = [], set(state)
    for index, name in _trained(module):
        for key, device in _keys(module, index, name):
            kept = optimizer.create_state_multi_precision(key, group.param_arrays[index][device])
            for i, array in enumerate(_arrays(kept)):
                entry = f"{name}:{i}"
                if entry in state and state[entry].shape == array.shape:
                    array[:] = state[entry]
                    unused.discard(entry)
                else:
                    missing.append(entry)
            updater.states[key] = kept
            updater.states_synced[key] = False  # it moves to where the update happens
    if missing or unused:
        raise UserError(
            f"--optimizer, --mom: the checkpoint's optimizer state does not fit"
            f" ({[*missing, *sorted(unused)][0]}); give what it was trained with"
        )


def _arrays(kept):
    """The arrays that an optimizer keeps for a weight, as a flat list."""
    if isinstance(kept, (tuple, list)):
        return [array for part in kept for array in _arrays(part)]
    return [] if kept is None else [kept]


def _trained(module):
    """Index and name of each weight that the optimizer changes."""
    group = module._exec_group
    return [
        (index, name)
        for index, name in enumerate(group.param_names)
        if group.grad_arrays[index][0] is not None
    ]


def _updater(module):
    return module._kvstore._updater if module._update_on_kvstore else module._updater


def _keys(module, index, name):
    """The updater's keys for a weight, each with the device whose copy it updates."""
    if module._update_on_kvstore:
        return [(name, 0)]
    devices = len(module._context)
    return [(index * devices + device, device) for device in range(devices)]
