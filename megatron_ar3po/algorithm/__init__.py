"""The paper as plain functions: values in, values out; no I/O, no ranks.

    adaptive_rollout     which prompts sample again, and how many responses
    response_reuse       which groups borrow, how a borrowed response joins, what is worth keeping
    advantages           what each response of a group is worth beside the others
    training_samples     which responses carry gradient
    aggregation          how much each token weighs in one optimizer step
    token_losses         PPO clip, clip-higher, dual clip, GSPO, CISPO, GMPO
    kl, importance_sampling, policy_loss    the loss of one micro-batch, and its metrics
    custom               a user's own function, named by its import path

AR3PO is "Improving Sampling Efficiency in RLVR through Adaptive Rollout and Response Reuse",
arXiv:2509.25808. Where we follow the paper, where we differ, and why; (inferred) marks what we
worked out from its published figures:

1.  We follow: responses are sampled in S stages of k for every prompt that is still unsolved; a
    prompt with one correct response leaves. S = 2, k = 4 (inferred: the largest budget equals
    GRPO's G = 8).
2.  We differ: there is no barrier between stages. Prompts are independent, so a prompt starts its
    next stage as soon as its own k verdicts are in; the same responses, sooner
    (`rollout.stage_scheduling: barrier` for the paper's order).
3.  We follow: an unsolved prompt borrows one stored correct response of its own, which takes the
    place of one incorrect response, so the group keeps its size. Only fresh responses are stored,
    only those of earlier steps are lent.
4.  The paper does not say which incorrect response leaves and which stored one comes. We choose
    both uniformly, from the run's seed (`reuse.pick` for others).
5.  The paper does not bound the store. We keep the newest `reuse.max_responses_per_prompt` of a
    prompt, without limit of age: a prompt comes back once per epoch, and a correct answer does not
    spoil.
6.  We follow: Option II (`reuse.option: detach`), the paper's best, is the default. The borrowed
    response counts in the mean and std of its group and nowhere else: no gradient, no place in a
    denominator, a KL, an entropy, a clip metric. Option I (`recompute`) gives it the log-probs of
    the policy at the start of the update. `stored`, its behaviour log-probs as they are, is there
    for the ablation.
7.  The paper does not say how groups of unequal size are weighed. We take DAPO's token mean: every
    gradient-carrying token of one optimizer step weighs the same, summed over all data-parallel
    ranks (`algorithm.loss_aggregation`).
8.  Advantages are (R - mean) / (std + 1e-6) with the population std (`algorithm.advantage_std` for
    the sample std, or none as in Dr. GRPO). The advantages of a group sum to 0 before a detached or
    a truncated response leaves.
9.  An all-correct group, and an unsolved one that found nothing to borrow, train nothing and are
    counted, also when a KL term is on (GRPO would train their KL): what carries no reward signal
    costs no forward pass.
10. Clip range 0.2 / 0.28 (DAPO's clip-higher), no KL term. The paper compares with DAPO, which has
    both.
11. The ratio is held to e^+-20 before it meets an advantage, so that float32 cannot overflow. Below
    that bound, which no healthy update comes near, nothing changes.
12. The importance-sampling correction leaves borrowed responses alone: their ratio to the policy
    that sampled them is what Option I sets aside on purpose.
"""
