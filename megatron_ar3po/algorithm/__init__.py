"""The paper as plain functions: values in, values out; no I/O, no ranks.

    adaptive_rollout     which prompts sample again, and how many responses
    counterfactual_cost  what another plan would have spent, from outcomes that were seen
    response_reuse       which groups borrow, how a borrowed response joins, what is worth keeping
    replay               which rows of earlier steps train again
    downsampling         which responses of a large group train
    history              what a prompt has shown in earlier steps; `prompt_table` holds it
    history_advantage    that as the baseline of a response
    advantages           what each response of a group is worth beside the others
    training_samples     which responses carry gradient; the KL penalty on rewards
    aggregation          how much each token weighs in one optimizer step
    token_losses         PPO clip, clip-higher, dual clip, GSPO, CISPO, GMPO
    entropy_floor        the weight of the entropy bonus from step to step
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
6.  We differ: Option I (`reuse.option: recompute`) is the default, since it was ahead of
    Option II (`detach`), the paper's best, in our comparison (docs/ablations.md). It gives the
    borrowed response the log-probs of the policy at the start of the update. Under Option II it
    counts in the mean and std of its group and nowhere else: no gradient, no place in a
    denominator, a KL, an entropy, a clip metric, a sequence count. `stored`, its behaviour log-probs
    as they are, is there for the ablation. We add a limit: under Option I a response whose recomputed
    log-probs differ from the stored ones by more than `reuse.max_logprob_drift` a token trains as under
    Option II (off by default).
7.  We add: a weight on groups that borrowed and a cap on their share of the groups that train
    (`reuse.weight`, `reuse.max_borrowed_frac`). The defaults, 1 and none, are the paper's. What
    borrowed groups teach is measured in every step (`reuse/signal_frac`,
    `reuse/advantage_mass_frac`).
8.  Each half can be switched off: `reuse.enabled=false` leaves adaptive rollout, one stage of
    `rollout.num_stages=1 rollout.responses_per_stage=8` leaves reuse.
9.  The paper does not say how groups of unequal size are weighed. We take DAPO's token mean: every
    gradient-carrying token of one optimizer step weighs the same, summed over all data-parallel
    ranks (`algorithm.loss_aggregation`).
10. Advantages are (R - mean) / (std + 1e-6) with the population std (`algorithm.advantage_std` for
    the sample std, or none as in Dr. GRPO). The advantages of a group sum to 0 before a detached or
    a truncated response leaves.
11. An all-correct group, and an unsolved one that found nothing to borrow, train nothing and are
    counted, also when a KL term is on, in the loss or in the reward (GRPO would train their KL): what
    carries no reward signal costs no forward pass.
12. Clip range 0.2 / 0.28 (DAPO's clip-higher), no KL term. The paper compares with DAPO, which has
    both.
13. The ratio is held to e^+-20 before it meets an advantage, so that float32 cannot overflow. Below
    that bound, which no healthy update comes near, nothing changes.
14. The importance-sampling correction leaves borrowed responses alone: their ratio to the policy
    that sampled them is what Option I sets aside on purpose.

Of the baselines:

15. DAPO (arXiv:2503.14476). We follow: clip-higher, token mean, no KL, and dynamic sampling that keeps
    a group when it holds a correct and a wrong response (Eq. 11; `algorithm.dynamic_sampling_by:
    reward` for graded rewards). A round draws `algorithm.prompts_per_round` prompts; it stops after
    `algorithm.max_sampling_rounds` rounds and trains on what it has. Its soft overlong punishment
    (Eq. 13) and overlong filtering are options of every method and off in every preset, since they
    change the reward and depend on the length limit: the paper's is
    `rewards.overlong_penalty_tokens` = a fifth of `rollout.max_response_tokens`.
16. GRPO (arXiv:2402.03300). Its aggregation, clip range and KL are options (docs/algorithms.md); the
    preset differs from AR3PO in sampling alone.
17. Dr. GRPO (arXiv:2503.20783) divides by a constant length; we leave constants to the learning rate.
18. REINFORCE++ (arXiv:2501.03262): a response counts once in the mean and std of the step, however
    long, and a KL in the reward is summed over the response, not from a token to its end.
19. GSPO (arXiv:2507.18071) and GMPO (arXiv:2507.20673) take the mean over the response; with their
    papers' `seq_mean_token_mean` a response weighs the same as in theirs.
20. History (`algorithm.name: history`) is ours: one response a prompt, the prompt's decayed counts as its
    baseline (history_advantage.py). Its relatives are SPO (arXiv:2509.13232), which normalises over the
    batch, and DBB (arXiv:2603.18444). Reinforce-Ada's stages (arXiv:2510.04996) are
    `rollout.stage_rule: balance`.
21. PODS (arXiv:2504.13818): down-sampling after borrowing, advantages over what stays; a group that is
    small enough stays whole.
"""
