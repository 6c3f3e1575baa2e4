/** Kullback-Leibler divergence of the distribution of logits `other` from that of `exact`, in nats, and whether both rank the same token first. */
export function divergence(exact, other) {
  const [a, b] = [exact, other].map(summary);
  let sum = 0;
  for (let i = 0; i < exact.length; i += 1) {
    const logA = exact[i] - a.logSum;
    sum += Math.exp(logA) * (logA - (other[i] - b.logSum));
  }
  return { kl: Math.max(sum, 0), same: a.top === b.top };
}

function summary(logits) {
  let top = 0;
  for (let i = 1; i < logits.length; i += 1) if (logits[i] > logits[top]) top = i;
  let sum = 0;
  for (const logit of logits) sum += Math.exp(logit - logits[top]);
  return { top, logSum: logits[top] + Math.log(sum) };
}

/** Mean of numbers and the half width of its 95% confidence interval. */
export function meanInterval(values) {
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  const variance = values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / (values.length - 1);
  return { mean, halfWidth: 1.96 * Math.sqrt(variance / values.length) };
}
