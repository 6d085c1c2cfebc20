-- Compares decimal numbers as text: IDs given by hand have 64 bits, Lua numbers 53.
local function is_smaller(a, b)
  if #a ~= #b then return #a < #b end
  return a < b
end

-- Whether ID a comes before ID b. Both are "<ms>-<seq>", without leading zeros.
local function less(a, b)
  local a_ms, a_seq = string.match(a, '^(%d+)-(%d+)$')
  local b_ms, b_seq = string.match(b, '^(%d+)-(%d+)$')
  if a_ms ~= b_ms then return is_smaller(a_ms, b_ms) end
  return is_smaller(a_seq, b_seq)
end
