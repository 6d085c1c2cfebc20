-- Whether a channel matches a glob, by the rules of PSUBSCRIBE: as sseproto.MatchGlob
-- does it, with the same corners.
local function signed(byte) return byte < 128 and byte or byte - 256 end

-- Matches an octet with the class that begins at p. Returns whether, and where the glob
-- goes on.
local function match_class(glob, p, c)
  local i, negated, found = p + 1, false, false
  if string.sub(glob, i, i) == '^' then i, negated = i + 1, true end
  while i <= #glob and string.sub(glob, i, i) ~= ']' do
    local a, dash, b = string.byte(glob, i, i + 2)
    if a == 92 and dash then -- a backslash
      found = found or dash == c
      i = i + 2
    elseif dash == 45 and b then
      local low, high = signed(a), signed(b)
      if low > high then low, high = high, low end
      found = found or low <= signed(c) and signed(c) <= high
      i = i + 3
    else
      found = found or a == c
      i = i + 1
    end
  end
  return found ~= negated, math.min(i, #glob) + 1
end

-- Matches an octet with the element at p, which is no star.
local function match_one(glob, p, c)
  local element, quoted = string.byte(glob, p, p + 1)
  if element == 63 then return true, p + 1 end -- ?
  if element == 91 then return match_class(glob, p, c) end -- [
  if element == 92 and quoted then return quoted == c, p + 2 end
  return element == c, p + 1
end

local function match_glob(glob, channel)
  if channel == '' then return glob == '' end
  local p, i = 1, 1
  local star, retry
  while i <= #channel do
    local fits, behind = false, nil
    if string.byte(glob, p) == 42 then -- *
      p = p + 1
      star, retry = p, i
    else
      if p <= #glob then fits, behind = match_one(glob, p, string.byte(channel, i)) end
      if fits then
        p, i = behind, i + 1
      elseif star then
        retry = retry + 1
        p, i = star, retry
      else
        return false
      end
    end
  end
  while string.byte(glob, p) == 42 do p = p + 1 end
  return p > #glob
end
